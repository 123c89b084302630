package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// account books what a machine takes for swap: a file while it is on and its memory is not locked.
func (w *world) account(machine *simulator.VirtualMachine) {
	swap := int64(0)
	if machine.Config != nil && machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
		if locked := machine.Config.MemoryReservationLockedToMax; locked == nil || !*locked {
			swap = int64(machine.Config.Hardware.MemoryMB) << 20
		}
	}
	w.book(w.swap, machine.Self, swap)
}

// book sets what one machine takes in one of the two ledgers, disks and swap, and tells the datastore.
func (w *world) book(ledger map[ref]int64, machine ref, bytes int64) {
	w.taken += bytes - ledger[machine]
	if bytes == 0 {
		delete(ledger, machine)
	} else {
		ledger[machine] = bytes
	}
	w.accountSpace()
}

// accountSpace tells the datastore how much room is left.
func (w *world) accountSpace() {
	datastore := w.datastore(w.mainDatastore)
	free := datastore.Summary.Capacity - w.taken
	if free < 0 {
		free = 0
	}
	if w.freeLimit >= 0 && free > w.freeLimit {
		free = w.freeLimit
	}
	if free != datastore.Summary.FreeSpace {
		datastore.Summary.FreeSpace = free
		datastore.Info.GetDatastoreInfo().FreeSpace = free
		w.touch(datastore.Self)
	}
}

// checkProfiles refuses storage policies that do not exist.
func (w *world) checkProfiles(list []types.BaseVirtualMachineProfileSpec) types.BaseMethodFault {
	for _, item := range list {
		if defined, ok := item.(*types.VirtualMachineDefinedProfileSpec); ok && !w.policies.has(defined.ProfileId) {
			return &types.InvalidArgument{InvalidProperty: "profileId"}
		}
	}
	return nil
}

// recordProfiles notes the storage policies of a clone: of its home, and of each disk. They are two things in vSphere:
// RelocateSpec.profile is "of the home directory", and a disk has that of its DiskLocator or of its device's change.
func (w *world) recordProfiles(machine ref, spec *types.VirtualMachineCloneSpec) {
	if id := profileOf(spec.Location.Profile); id != "" {
		w.profiles[machine] = id
	}
	w.diskProfiles[machine] = map[int32]string{}
	for _, disk := range spec.Location.Disk {
		w.diskProfiles[machine][disk.DiskId] = profileOf(disk.Profile)
	}
	if spec.Config != nil {
		w.changeProfiles(machine, spec.Config)
	}
}

// changeProfiles notes the storage policies that a change of a machine gives its home and its disks.
func (w *world) changeProfiles(machine ref, spec *types.VirtualMachineConfigSpec) {
	if id := profileOf(spec.VmProfile); id != "" {
		w.profiles[machine] = id
	}
	for _, item := range spec.DeviceChange {
		change := item.GetVirtualDeviceConfigSpec()
		if disk, ok := change.Device.(*types.VirtualDisk); ok && len(change.Profile) > 0 {
			if w.diskProfiles[machine] == nil {
				w.diskProfiles[machine] = map[int32]string{}
			}
			w.diskProfiles[machine][disk.Key] = profileOf(change.Profile)
		}
	}
}

func profileOf(list []types.BaseVirtualMachineProfileSpec) string {
	id := ""
	for _, item := range list {
		if defined, ok := item.(*types.VirtualMachineDefinedProfileSpec); ok {
			id = defined.ProfileId
		}
	}
	return id
}
