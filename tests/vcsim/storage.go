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

// recordProfile notes the storage policy of a machine, for the policy service to tell.
func (w *world) recordProfile(machine ref, list []types.BaseVirtualMachineProfileSpec) {
	for _, item := range list {
		if defined, ok := item.(*types.VirtualMachineDefinedProfileSpec); ok {
			w.profiles[machine] = defined.ProfileId
		}
	}
}
