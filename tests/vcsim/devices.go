package main

import (
	"fmt"
	"path"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// changeDevices adds, edits and removes devices of a configuration; it owns what it is given.
func (w *world) changeDevices(config *types.VirtualMachineConfigInfo, changes []types.BaseVirtualDeviceConfigSpec) types.BaseMethodFault {
	devices := append([]types.BaseVirtualDevice{}, config.Hardware.Device...)
	keys := map[int32]int32{} // a client's own key of a device it adds -> the key it got
	for i, item := range changes {
		change := item.GetVirtualDeviceConfigSpec()
		invalid := &types.InvalidDeviceSpec{DeviceIndex: int32(i)}
		device := change.Device
		base := device.GetVirtualDevice()
		at := -1
		for j, other := range devices {
			if other.GetVirtualDevice().Key == base.Key {
				at = j
			}
		}
		switch change.Operation {
		case types.VirtualDeviceConfigSpecOperationRemove:
			if at < 0 {
				return invalid
			}
			devices = append(devices[:at:at], devices[at+1:]...)
		case types.VirtualDeviceConfigSpecOperationEdit:
			if at < 0 {
				return invalid
			}
			if problem := w.prepare(device, devices[at], config); problem != nil {
				return problem
			}
			devices[at] = device
		case types.VirtualDeviceConfigSpecOperationAdd:
			asked := base.Key
			if base.Key <= 0 || at >= 0 {
				base.Key = freeKey(devices, firstKey(device))
			}
			keys[asked] = base.Key
			if to, ok := keys[base.ControllerKey]; ok && base.ControllerKey < 0 {
				base.ControllerKey = to
			}
			if problem := w.prepare(device, nil, config); problem != nil {
				return problem
			}
			devices = append(devices, device)
		default:
			return invalid
		}
	}
	config.Hardware.Device = devices
	return nil
}

func changesCards(changes []types.BaseVirtualDeviceConfigSpec) bool {
	for _, change := range changes {
		if _, ok := change.GetVirtualDeviceConfigSpec().Device.(*types.VirtualPCIPassthrough); ok {
			return true
		}
	}
	return false
}

func firstKey(device types.BaseVirtualDevice) int32 {
	switch device.(type) {
	case *types.VirtualPCIPassthrough:
		return 13000
	case types.BaseVirtualEthernetCard:
		return 4000
	case *types.VirtualDisk:
		return 2000
	case *types.VirtualCdrom:
		return 3000
	case types.BaseVirtualSCSIController:
		return 1000
	}
	return 15000
}

func freeKey(devices []types.BaseVirtualDevice, key int32) int32 {
	for again := true; again; {
		again = false
		for _, other := range devices {
			if other.GetVirtualDevice().Key == key {
				key++
				again = true
			}
		}
	}
	return key
}

// prepare checks one device and gives it what vCenter would: controller, label, network reference, MAC address.
func (w *world) prepare(device, before types.BaseVirtualDevice, config *types.VirtualMachineConfigInfo) types.BaseMethodFault {
	base := device.GetVirtualDevice()
	label, summary := fmt.Sprintf("Device %d", base.Key), ""
	switch d := device.(type) {
	case *types.VirtualPCIPassthrough:
		label = fmt.Sprintf("PCI device %d", base.Key-13000)
		if base.ControllerKey == 0 {
			base.ControllerKey = 100
		}
		switch backing := d.Backing.(type) {
		case *types.VirtualPCIPassthroughDynamicBackingInfo:
			if len(backing.AllowedDevice) == 0 {
				return &types.InvalidDeviceBacking{}
			}
			if config.Version < "vmx-17" { // vim.fault.DeviceUnsupportedForVmVersion is there for this
				return &types.DeviceUnsupportedForVmVersion{CurrentVersion: config.Version, ExpectedVersion: "vmx-17"}
			}
			backing.AssignedId = ""
		case *types.VirtualPCIPassthroughDeviceBackingInfo:
			if backing.Id == "" {
				return &types.InvalidDeviceBacking{}
			}
		case *types.VirtualPCIPassthroughVmiopBackingInfo:
			if backing.Vgpu == "" {
				return &types.InvalidDeviceBacking{}
			}
			summary = "NVIDIA GRID vGPU " + backing.Vgpu
		default:
			return &types.InvalidDeviceBacking{}
		}
	case types.BaseVirtualEthernetCard:
		label = fmt.Sprintf("Network adapter %d", base.Key-3999)
		if base.ControllerKey == 0 {
			base.ControllerKey = 100
		}
		card := d.GetVirtualEthernetCard()
		if old, ok := before.(types.BaseVirtualEthernetCard); ok && card.MacAddress == "" {
			card.MacAddress = old.GetVirtualEthernetCard().MacAddress
		}
		if card.MacAddress == "" {
			w.serial++
			card.AddressType = "assigned"
			card.MacAddress = fmt.Sprintf("00:50:56:%02x:%02x:%02x", w.serial>>16&0x3f, w.serial>>8&0xff, w.serial&0xff)
		}
		network := w.networkOf(card.Backing)
		if network == nil {
			return &types.InvalidDeviceBacking{}
		}
		if named, ok := card.Backing.(*types.VirtualEthernetCardNetworkBackingInfo); ok {
			named.Network = network
			summary = named.DeviceName
		}
		if base.Connectable == nil {
			base.Connectable = &types.VirtualDeviceConnectInfo{StartConnected: true, AllowGuestControl: true}
		}
	case *types.VirtualDisk:
		label = fmt.Sprintf("Hard disk %d", base.Key-1999)
		old, _ := before.(*types.VirtualDisk)
		if problem := size(d, old); problem != nil {
			return problem
		}
		summary = fmt.Sprintf("%d KB", d.CapacityInKB)
	}
	if base.DeviceInfo == nil {
		base.DeviceInfo = &types.Description{Label: label, Summary: summary}
	} else if info := base.DeviceInfo.GetDescription(); info.Label == "" {
		info.Label = label
	}
	return nil
}

// size settles a disk's two capacities, of which a client may change one, and keeps the file of a disk that is there.
func size(disk, before *types.VirtualDisk) types.BaseMethodFault {
	fromKB := disk.CapacityInBytes == 0
	if before != nil {
		fromKB = disk.CapacityInBytes == 0 || disk.CapacityInBytes == before.CapacityInBytes
		if !fromKB && disk.CapacityInKB != 0 && disk.CapacityInKB != before.CapacityInKB && disk.CapacityInKB != disk.CapacityInBytes/1024 {
			return &types.InvalidArgument{InvalidProperty: "capacityInBytes"}
		}
		if fromKB && disk.CapacityInKB == 0 {
			disk.CapacityInKB = before.CapacityInKB
		}
	}
	if fromKB {
		disk.CapacityInBytes = disk.CapacityInKB * 1024
	} else {
		disk.CapacityInKB = disk.CapacityInBytes / 1024
	}
	if before != nil {
		if disk.CapacityInBytes < before.CapacityInBytes {
			return &types.InvalidDeviceSpec{} // vSphere lets disks grow only
		}
		disk.Backing = before.Backing
	}
	return nil
}

// networkOf finds the network that a card's backing names, or nil.
func (w *world) networkOf(backing types.BaseVirtualDeviceBackingInfo) *ref {
	switch b := backing.(type) {
	case *types.VirtualEthernetCardNetworkBackingInfo:
		for _, entity := range w.registry.All("Network") {
			self := entity.Reference()
			if (b.Network != nil && self == *b.Network) || (b.DeviceName != "" && entity.Entity().Name == b.DeviceName) {
				return &self
			}
		}
		// A client may name a portgroup of a distributed switch here: vCenter does not accept that.
	case *types.VirtualEthernetCardDistributedVirtualPortBackingInfo:
		for _, entity := range w.registry.All("DistributedVirtualPortgroup") {
			group := managed(entity).Addr().Interface().(*mo.DistributedVirtualPortgroup)
			if group.Key == b.Port.PortgroupKey || group.Self.Value == b.Port.PortgroupKey {
				self := group.Self
				return &self
			}
		}
	}
	return nil
}

// moveDisks gives a copy's disks their own files, as children of a snapshot's or as whole copies.
func (w *world) moveDisks(config *types.VirtualMachineConfigInfo, name string, datastore ref, linked bool) {
	n := 0
	for _, device := range config.Hardware.Device {
		disk, ok := device.(*types.VirtualDisk)
		if !ok {
			continue
		}
		file := name + ".vmdk"
		if n > 0 {
			file = fmt.Sprintf("%s_%d.vmdk", name, n)
		}
		n++
		if backing, ok := disk.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
			at := datastore
			parent := *backing
			fresh := parent
			fresh.Parent = nil
			if linked {
				fresh.Parent = &parent
			}
			fresh.Datastore = &at
			fresh.FileName = path.Join(fmt.Sprintf("[%s] %s", w.datastore(datastore).Name, name), file)
			disk.Backing = &fresh
		}
	}
}
