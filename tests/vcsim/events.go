package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// cloning posts the event that begins the chain of a clone's task: vim's VmBeingClonedEvent, which names what is made.
func (w *world) cloning(task ref, name string, folder ref) {
	if found, ok := w.registry.Get(task).(*simulator.Task); ok {
		being := &types.VmBeingClonedEvent{DestName: name}
		being.DestFolder.Folder, being.DestFolder.Name = folder, w.nameOf(folder)
		being.DestHost.Host = w.hostRefs[0] // the client knows only later which one it is
		being.ChainId, being.CreatedTime = found.Info.EventChainId, now()
		w.clones[found.Info.EventChainId] = being
	}
}

// queryEvents finds the events of a chain; whoever asks for anything else is answered by govmomi's simulator.
func queryEvents(c *call) answer {
	filter := c.body.(*types.QueryEvents).Filter
	if filter.EventChainId == 0 {
		return answer{}
	}
	response := &types.QueryEventsResponse{}
	if found, ok := c.world.clones[filter.EventChainId]; ok {
		response.Returnval = append(response.Returnval, found)
	}
	return answer{body: &methods.QueryEventsBody{Res: response}}
}

// nic is what VMware Tools report of an interface of the guest.
type nic struct {
	Key       int32    `json:"key"`
	Addresses []string `json:"addresses"`
}

// setNics lets a guest report its interfaces; one that is no network card of the machine has the key -1.
func (w *world) setNics(machine *simulator.VirtualMachine, nics []nic) {
	if len(nics) == 0 {
		return
	}
	machine.Guest.Net = nil
	for _, each := range nics {
		machine.Guest.Net = append(machine.Guest.Net, types.GuestNicInfo{
			IpAddress: each.Addresses, Connected: true, DeviceConfigId: each.Key,
		})
	}
	w.summarize(machine)
}
