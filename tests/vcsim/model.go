package main

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/simulator/esx"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// watcher hears from govmomi's simulator what changed by its own methods.
type watcher struct {
	ref
	world *world
}

// PutObject is called for what was added.
func (x *watcher) PutObject(object mo.Reference) {
	x.world.touch(object.Reference())
	if _, ok := object.(mo.Entity); ok {
		x.world.reshape()
	}
}

// UpdateObject is called for what changed.
func (x *watcher) UpdateObject(object mo.Reference, _ []types.PropertyChange) {
	x.world.touch(object.Reference())
}

// RemoveObject is called for what is gone.
func (x *watcher) RemoveObject(target ref) {
	x.world.touch(target)
	x.world.reshape()
}

// build makes the inventory: one datacenter, one cluster of hosts with cards, a vSAN datastore, a network and a
// portgroup, a template with a snapshot, and ordinary machines.
func (w *world) build() error {
	model := simulator.VPX()
	model.Datacenter, model.Cluster, model.Host, model.Portgroup, model.Machine, model.Datastore = 1, 1, 0, 1, 0, 1
	model.ClusterHost, model.Autostart, model.Folder, model.Pool = len(w.config.Hosts), false, 0, 1
	if err := model.Create(); err != nil {
		return err
	}
	w.model, w.service, w.registry = model, model.Service, simulator.Map
	w.registry.AddHandler(&watcher{ref{Type: "Watcher", Value: "watcher"}, w})

	root := w.registry.Get(ref{Type: "ServiceInstance", Value: "ServiceInstance"}).(*simulator.ServiceInstance)
	about := &root.Content.About
	about.ApiVersion, about.Version, about.Build = w.config.APIVersion, w.config.APIVersion[:5], "20395099"
	about.FullName = "VMware vCenter Server " + about.Version + " build-" + about.Build
	w.collectorRef = root.Content.PropertyCollector

	rights := w.registry.Get(*root.Content.AuthorizationManager).(*simulator.AuthorizationManager)
	for _, role := range rights.RoleList {
		if role.Name == "Admin" {
			w.privileges = role.Privilege
		}
	}

	datacenter := w.registry.Any("Datacenter").(*simulator.Datacenter)
	datacenter.Name = "lab"
	w.vmFolder = datacenter.VmFolder
	cluster := w.registry.Any("ClusterComputeResource").(*simulator.ClusterComputeResource)
	cluster.Name = "gpu"
	w.clusterRef = cluster.Self
	w.poolRef = *cluster.ResourcePool
	enabled := types.NewBool(true)
	settings := cluster.ConfigurationEx.(*types.ClusterConfigInfoEx)
	settings.DasConfig = types.ClusterDasConfigInfo{Enabled: enabled, HostMonitoring: "enabled"}
	settings.VsanConfigInfo = &types.VsanClusterConfigInfo{Enabled: enabled}
	for _, self := range w.pool(w.poolRef).ResourcePool {
		w.pool(self).Name = "workers"
	}
	store := w.registry.Any("Datastore").(*simulator.Datastore)
	w.mainDatastore = store.Self
	store.Name = "vsanDatastore"
	info := store.Info.GetDatastoreInfo()
	info.Name = store.Name
	store.Summary.Name, store.Summary.Type, store.Summary.Url = store.Name, "vsan", "ds:///vmfs/volumes/vsan:5260/"
	store.Summary.Capacity, store.Summary.FreeSpace = w.config.CapacityGiB*gib, w.config.CapacityGiB*gib
	info.FreeSpace = store.Summary.FreeSpace
	for _, entity := range w.registry.All("DistributedVirtualPortgroup") {
		group := entity.(*simulator.DistributedVirtualPortgroup)
		if group.Name == "DC0_DVPG0" {
			group.Name = "gpu-net"
			group.Config.Name = group.Name
		}
		if strings.Contains(group.Name, "DVUplinks") { // vCenter marks it so, govmomi's simulator does not
			group.Tag = []types.Tag{{Key: "SYSTEM/DVS.UPLINKPG"}}
		}
	}
	for i, self := range cluster.Host {
		host := w.host(self)
		spec := w.config.Hosts[i]
		host.Name, host.Summary.Config.Name = spec.Name, spec.Name
		host.Config.AssignableHardwareBinding = nil
		if err := w.equip(host, spec); err != nil {
			return err
		}
		w.hostRefs = append(w.hostRefs, self)
	}
	w.makeMachines()
	return nil
}

// newConfig is a machine with a boot disk and one network card, as the template has them.
func (w *world) newConfig(guest string) *types.VirtualMachineConfigInfo {
	if guest == "" {
		guest = string(types.VirtualMachineGuestOsIdentifierUbuntu64Guest)
	}
	share := func() *types.ResourceAllocationInfo {
		spec := types.DefaultResourceConfigSpec()
		return &spec.CpuAllocation
	}
	config := &types.VirtualMachineConfigInfo{
		GuestId: guest, GuestFullName: guest, Version: "vmx-19", Firmware: string(types.GuestOsDescriptorFirmwareTypeEfi),
		InstanceUuid: uuid.New().String(), Tools: &types.ToolsConfigInfo{}, BootOptions: &types.VirtualMachineBootOptions{},
		CpuAllocation: share(), MemoryAllocation: share(), MemoryReservationLockedToMax: types.NewBool(false),
		LatencySensitivity: &types.LatencySensitivity{Level: types.LatencySensitivitySensitivityLevelNormal},
		Hardware:           types.VirtualHardware{NumCPU: 2, NumCoresPerSocket: 1, MemoryMB: 4096},
		ExtraConfig:        []types.BaseOptionValue{&types.OptionValue{Key: "nvram", Value: "machine.nvram"}},
	}
	for _, device := range esx.VirtualDevice {
		switch device.(type) {
		case *types.VirtualPCIController, *types.VirtualIDEController:
			config.Hardware.Device = append(config.Hardware.Device, copyDevice(device))
		}
	}
	unit := int32(0)
	config.Hardware.Device = append(config.Hardware.Device,
		&types.ParaVirtualSCSIController{VirtualSCSIController: types.VirtualSCSIController{
			SharedBus: types.VirtualSCSISharingNoSharing,
			VirtualController: types.VirtualController{VirtualDevice: types.VirtualDevice{
				Key: 1000, ControllerKey: 100, DeviceInfo: &types.Description{Label: "SCSI controller 0", Summary: "VMware paravirtual SCSI"},
			}},
		}},
		&types.VirtualDisk{
			CapacityInKB: w.config.DiskGiB << 20, CapacityInBytes: w.config.DiskGiB << 30,
			VirtualDevice: types.VirtualDevice{
				Key: 2000, ControllerKey: 1000, UnitNumber: &unit, DeviceInfo: &types.Description{Label: "Hard disk 1"},
				Backing: &types.VirtualDiskFlatVer2BackingInfo{DiskMode: "persistent", ThinProvisioned: types.NewBool(true)},
			},
		},
	)
	network := &types.VirtualVmxnet3{}
	network.Key, network.ControllerKey = 4000, 100
	network.Backing = &types.VirtualEthernetCardNetworkBackingInfo{
		VirtualDeviceDeviceBackingInfo: types.VirtualDeviceDeviceBackingInfo{DeviceName: "VM Network"},
	}
	config.Hardware.Device = append(config.Hardware.Device, network)
	return config
}

// add puts a finished machine into the inventory without a task.
func (w *world) add(name string, host int, change func(*types.VirtualMachineConfigInfo)) *simulator.VirtualMachine {
	at := place{folder: w.vmFolder, pool: w.poolRef, host: w.hostRefs[host%len(w.hostRefs)], datastore: w.mainDatastore}
	m := &copying{world: w, name: name, folder: at.folder, at: at, config: w.newConfig("")}
	if change != nil {
		change(m.config)
	}
	if problem := m.complete(&types.VirtualMachineConfigSpec{}); problem != nil {
		panic(fmt.Sprintf("cannot make %s: %s", name, message(problem)))
	}
	return m.machine
}

func (w *world) makeMachines() {
	template := w.add(w.config.Template, 0, nil)
	if w.config.Snapshot != "" {
		w.snapshot(template, w.config.Snapshot, "")
	}
	if w.config.AsTemplate {
		w.toTemplate(template)
	}
	for i := 0; i < w.config.VMs; i++ {
		machine := w.add(fmt.Sprintf("user-%04d", i), i, nil)
		w.book(w.used, machine.Self, 2*gib)
		if i%2 == 0 {
			machine.Config.MemoryReservationLockedToMax = types.NewBool(false)
			machine.Config.Hardware.MemoryMB = 512
			if problem := w.powerOn(machine); problem != nil {
				panic(message(problem))
			}
		}
	}
	w.events = nil
}
