package main

import (
	"fmt"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// hardware is what a site's own template may have in it; empty fields mean what our template has.
type hardware struct {
	Firmware   string   `json:"firmware"`
	Version    string   `json:"version"`
	SecureBoot bool     `json:"secure_boot"`
	Encrypted  bool     `json:"encrypted"`
	HotAdd     bool     `json:"hot_add"`
	Devices    []string `json:"devices"`
}

// dress gives the template and its snapshots other hardware, in place of what an earlier call gave them.
func (w *world) dress(wanted hardware) error {
	machine := w.machineNamed(w.config.Template)
	if machine == nil {
		return fmt.Errorf("there is no template")
	}
	config, err := w.dressed(machine.Config, wanted)
	if err != nil {
		return err
	}
	machine.Config = config
	if machine.Snapshot != nil {
		err = w.dressSnapshots(machine.Snapshot.RootSnapshotList, wanted)
	}
	w.modified(machine)
	return err
}

func (w *world) dressSnapshots(tree []types.VirtualMachineSnapshotTree, wanted hardware) error {
	for _, node := range tree {
		snapshot := w.registry.Get(node.Snapshot).(*simulator.VirtualMachineSnapshot)
		config, err := w.dressed(&snapshot.Config, wanted)
		if err != nil {
			return err
		}
		snapshot.Config = *config
		w.touch(node.Snapshot)
		if err := w.dressSnapshots(node.ChildSnapshotList, wanted); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) dressed(before *types.VirtualMachineConfigInfo, wanted hardware) (*types.VirtualMachineConfigInfo, error) {
	config, plain := copyConfig(before), w.newConfig("")
	config.Firmware, config.Version = plain.Firmware, plain.Version
	if wanted.Firmware != "" {
		config.Firmware = wanted.Firmware
	}
	if wanted.Version != "" {
		config.Version = wanted.Version
	}
	config.BootOptions = &types.VirtualMachineBootOptions{EfiSecureBootEnabled: types.NewBool(wanted.SecureBoot)}
	config.CpuHotAddEnabled, config.MemoryHotAddEnabled = types.NewBool(wanted.HotAdd), types.NewBool(wanted.HotAdd)
	config.KeyId = nil
	if wanted.Encrypted {
		config.KeyId = &types.CryptoKeyId{KeyId: "k"}
	}
	usual := len(plain.Hardware.Device)
	config.Hardware.Device = append([]types.BaseVirtualDevice{}, config.Hardware.Device[:usual]...)
	for i, name := range wanted.Devices {
		device, err := w.extra(name)
		if err != nil {
			return nil, err
		}
		device.GetVirtualDevice().Key = int32(20000 + i)
		device.GetVirtualDevice().DeviceInfo = &types.Description{Label: name}
		config.Hardware.Device = append(config.Hardware.Device, device)
	}
	return config, nil
}

// extra makes a device by a name of ours; the backings are those that vim's types have for it.
func (w *world) extra(name string) (types.BaseVirtualDevice, error) {
	device := func(backing types.BaseVirtualDeviceBackingInfo) types.VirtualDevice {
		return types.VirtualDevice{Backing: backing}
	}
	switch name {
	case "card":
		return &types.VirtualPCIPassthrough{VirtualDevice: device(&types.VirtualPCIPassthroughDynamicBackingInfo{
			AllowedDevice: []types.VirtualPCIPassthroughAllowedDevice{{VendorId: nvidia, DeviceId: 0x2684}},
		})}, nil
	case "usb":
		return &types.VirtualUSB{VirtualDevice: device(&types.VirtualUSBRemoteHostBackingInfo{Hostname: "esx-01.lab"})}, nil
	case "cd":
		backing := &types.VirtualCdromIsoBackingInfo{}
		backing.FileName = "[local-1] install.iso"
		return &types.VirtualCdrom{VirtualDevice: device(backing)}, nil
	case "cd of the client":
		return &types.VirtualCdrom{VirtualDevice: device(&types.VirtualCdromRemotePassthroughBackingInfo{})}, nil
	case "serial":
		backing := &types.VirtualSerialPortFileBackingInfo{}
		backing.FileName = "[local-1] console.log"
		return &types.VirtualSerialPort{VirtualDevice: device(backing)}, nil
	case "serial over the network":
		backing := &types.VirtualSerialPortURIBackingInfo{}
		backing.ServiceURI, backing.Direction = "telnet://:7001", "server"
		return &types.VirtualSerialPort{VirtualDevice: device(backing)}, nil
	case "tpm":
		return &types.VirtualTPM{}, nil
	case "second network":
		for _, entity := range w.registry.All("DistributedVirtualPortgroup") {
			if group := managed(entity).Addr().Interface().(*mo.DistributedVirtualPortgroup); group.Name == "gpu-net" {
				port := types.DistributedVirtualSwitchPortConnection{PortgroupKey: group.Self.Value}
				card := &types.VirtualVmxnet3{}
				card.Backing = &types.VirtualEthernetCardDistributedVirtualPortBackingInfo{Port: port}
				return card, nil
			}
		}
	}
	return nil, fmt.Errorf("no device %q is known", name)
}
