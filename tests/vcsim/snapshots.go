package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// snapshot takes one below the current one, which it replaces as the current.
func (w *world) snapshot(machine *simulator.VirtualMachine, name, description string) ref {
	w.serial++
	made := &simulator.VirtualMachineSnapshot{}
	made.Vm = machine.Self
	made.Config = *copyConfig(machine.Config)
	w.registry.Put(made)
	node := types.VirtualMachineSnapshotTree{
		Snapshot: made.Self, Vm: machine.Self, Name: name, Description: description, Id: int32(w.serial),
		CreateTime: now(), State: machine.Runtime.PowerState, ReplaySupported: types.NewBool(false),
	}
	info := &types.VirtualMachineSnapshotInfo{}
	if machine.Snapshot != nil {
		*info = *machine.Snapshot
	}
	if info.CurrentSnapshot == nil {
		info.RootSnapshotList = append(append([]types.VirtualMachineSnapshotTree{}, info.RootSnapshotList...), node)
		machine.RootSnapshot = with(machine.RootSnapshot, made.Self)
	} else {
		info.RootSnapshotList = below(info.RootSnapshotList, *info.CurrentSnapshot, node)
	}
	self := made.Self
	info.CurrentSnapshot = &self
	machine.Snapshot = info
	w.touch(machine.Self)
	return self
}

// below copies a tree with a node added under one of it.
func below(tree []types.VirtualMachineSnapshotTree, parent ref, node types.VirtualMachineSnapshotTree) []types.VirtualMachineSnapshotTree {
	out := append([]types.VirtualMachineSnapshotTree{}, tree...)
	for i := range out {
		children := below(out[i].ChildSnapshotList, parent, node)
		if out[i].Snapshot == parent {
			children = append(children, node)
		}
		out[i].ChildSnapshotList = children
	}
	return out
}

// pruned copies a tree without one node; its children go with it, or take its place.
func pruned(tree []types.VirtualMachineSnapshotTree, target ref, whole bool) []types.VirtualMachineSnapshotTree {
	var out []types.VirtualMachineSnapshotTree
	for _, node := range tree {
		if node.Snapshot == target {
			if !whole {
				out = append(out, node.ChildSnapshotList...)
			}
			continue
		}
		node.ChildSnapshotList = pruned(node.ChildSnapshotList, target, whole)
		out = append(out, node)
	}
	return out
}

func parentOf(tree []types.VirtualMachineSnapshotTree, target ref, above *ref) *ref {
	for i := range tree {
		if tree[i].Snapshot == target {
			return above
		}
		self := tree[i].Snapshot
		if found := parentOf(tree[i].ChildSnapshotList, target, &self); found != nil {
			return found
		}
	}
	return nil
}

func createSnapshot(c *call) answer {
	w := c.world
	machine := w.vm(c.this)
	if machine == nil {
		return notFound(c.this)
	}
	name, description, memory := "", "", false
	switch request := c.body.(type) {
	case *types.CreateSnapshot_Task:
		name, description, memory = request.Name, request.Description, request.Memory
	case *types.CreateSnapshotEx_Task:
		name, description, memory = request.Name, request.Description, request.Memory
	}
	task := c.start(machine.Self, work{name: "createSnapshot", finish: func() (types.AnyType, types.BaseMethodFault) {
		if problem := w.usable(machine, false); problem != nil {
			return nil, problem
		}
		on := machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn
		if on && memory && len(cardsOf(machine.Config)) > 0 {
			return nil, &types.NotSupported{} // no memory snapshots with passed-through cards
		}
		return w.snapshot(machine, name, description), nil
	}})
	if c.method == "CreateSnapshotEx_Task" {
		return answer{body: &methods.CreateSnapshotEx_TaskBody{Res: &types.CreateSnapshotEx_TaskResponse{Returnval: task}}}
	}
	return answer{body: &methods.CreateSnapshot_TaskBody{Res: &types.CreateSnapshot_TaskResponse{Returnval: task}}}
}

func removeSnapshot(c *call) answer {
	w, request := c.world, c.body.(*types.RemoveSnapshot_Task)
	found, ok := w.registry.Get(c.this).(*simulator.VirtualMachineSnapshot)
	if !ok {
		return notFound(c.this)
	}
	machine := w.vm(found.Vm)
	task := c.start(machine.Self, work{name: "removeSnapshot", finish: func() (types.AnyType, types.BaseMethodFault) {
		if w.registry.Get(found.Self) == nil {
			return nil, &types.ManagedObjectNotFound{Obj: found.Self}
		}
		info := *machine.Snapshot
		if info.CurrentSnapshot != nil && *info.CurrentSnapshot == found.Self {
			info.CurrentSnapshot = parentOf(info.RootSnapshotList, found.Self, nil)
		}
		info.RootSnapshotList = pruned(info.RootSnapshotList, found.Self, request.RemoveChildren)
		machine.Snapshot = &info
		if len(info.RootSnapshotList) == 0 {
			machine.Snapshot = nil
		}
		machine.RootSnapshot = without(machine.RootSnapshot, found.Self)
		w.registry.Remove(found.Self)
		w.touch(machine.Self)
		return nil, nil
	}})
	return answer{body: &methods.RemoveSnapshot_TaskBody{Res: &types.RemoveSnapshot_TaskResponse{Returnval: task}}}
}
