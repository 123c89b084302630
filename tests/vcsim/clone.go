package main

import (
	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// where finds out where a copy is to be, or what is wrong with what was asked.
func (w *world) where(source *simulator.VirtualMachine, folder *ref, location *types.VirtualMachineRelocateSpec) (place, types.BaseMethodFault) {
	at := place{folder: *source.Parent, host: *source.Runtime.Host, datastore: source.Datastore[0]}
	if folder != nil {
		at.folder = *folder
	}
	found := w.registry.Get(at.folder)
	if found == nil {
		return at, &types.ManagedObjectNotFound{Obj: at.folder}
	}
	if parent, ok := managed(found).Addr().Interface().(*mo.Folder); !ok || !contains(parent.ChildType, "VirtualMachine") {
		return at, &types.InvalidArgument{InvalidProperty: "folder"}
	}
	pool := location.Pool
	if pool == nil {
		pool = source.ResourcePool
	}
	if pool == nil {
		return at, &types.InvalidArgument{InvalidProperty: "spec.location.pool"}
	}
	at.pool = *pool
	if w.pool(at.pool) == nil {
		return at, &types.ManagedObjectNotFound{Obj: at.pool}
	}
	if location.Host != nil {
		at.host = *location.Host
	}
	host := w.host(at.host)
	if host == nil {
		return at, &types.ManagedObjectNotFound{Obj: at.host}
	}
	if problem := w.reachable(host); problem != nil {
		return at, problem
	}
	if location.Datastore != nil {
		at.datastore = *location.Datastore
	}
	if w.datastore(at.datastore) == nil {
		return at, &types.ManagedObjectNotFound{Obj: at.datastore}
	}
	return at, nil
}

func contains(list []string, item string) bool {
	for _, other := range list {
		if other == item {
			return true
		}
	}
	return false
}

func cloneVM(c *call) answer {
	w, request := c.world, c.body.(*types.CloneVM_Task)
	source := w.vm(request.This)
	if source == nil {
		return notFound(request.This)
	}
	folder := request.Folder
	made := &copying{world: w, name: request.Name, folder: folder}
	spec := &request.Spec
	task := c.start(source.Self, work{
		name: "cloneVm",
		begin: func() types.BaseMethodFault {
			at, problem := w.where(source, &folder, &spec.Location)
			if problem != nil {
				return problem
			}
			if problem := w.usable(source, false); problem != nil {
				return problem
			}
			base := source.Config
			linked := spec.Location.DiskMoveType == string(types.VirtualMachineRelocateDiskMoveOptionsCreateNewChildDiskBacking)
			if spec.Snapshot != nil {
				snapshot, ok := w.registry.Get(*spec.Snapshot).(*simulator.VirtualMachineSnapshot)
				if !ok {
					return &types.ManagedObjectNotFound{Obj: *spec.Snapshot}
				}
				base = &snapshot.Config
			} else if linked {
				return &types.InvalidArgument{InvalidProperty: "spec.snapshot"}
			}
			profiles := spec.Location.Profile
			if spec.Config != nil {
				profiles = append(append([]types.BaseVirtualMachineProfileSpec{}, profiles...), spec.Config.VmProfile...)
				for _, change := range spec.Config.DeviceChange {
					profiles = append(profiles, change.GetVirtualDeviceConfigSpec().Profile...)
				}
			}
			for _, disk := range spec.Location.Disk {
				profiles = append(profiles, disk.Profile...)
			}
			if problem := w.checkProfiles(profiles); problem != nil {
				return problem
			}
			made.at, made.linked = at, linked
			made.config = copyConfig(base)
			made.config.InstanceUuid, made.config.Uuid = "", ""
			return made.reserve()
		},
		middle: made.appear,
		finish: func() (types.AnyType, types.BaseMethodFault) {
			config := spec.Config
			if config == nil {
				config = &types.VirtualMachineConfigSpec{}
			}
			all := *config
			all.DeviceChange = append(append([]types.BaseVirtualDeviceConfigSpec{}, spec.Location.DeviceChange...), config.DeviceChange...)
			if problem := made.complete(&all); problem != nil {
				return nil, problem
			}
			w.recordProfiles(made.machine.Self, spec)
			if spec.Template {
				w.toTemplate(made.machine)
			}
			if spec.PowerOn {
				// The machine is there all the same when this fails: the client learns so from the task alone.
				if problem := w.powerOn(made.machine); problem != nil {
					return nil, problem
				}
			}
			return made.machine.Self, nil
		},
		undo: made.vanish,
	})
	w.cloning(task, request.Name, folder)
	return answer{body: &methods.CloneVM_TaskBody{Res: &types.CloneVM_TaskResponse{Returnval: task}}}
}

// copying is a machine on its way: its name is reserved, then it is seen without a configuration, then it is there.
type copying struct {
	world    *world
	name     string
	folder   ref
	at       place
	linked   bool
	config   *types.VirtualMachineConfigInfo
	machine  *simulator.VirtualMachine
	reserved bool
	done     bool
}

func (m *copying) reserve() types.BaseMethodFault {
	w := m.world
	if problem := w.nameTaken(m.at.folder, m.name); problem != nil {
		return problem
	}
	need := m.size()
	if free := w.datastore(m.at.datastore).Summary.FreeSpace; need > free {
		return &types.NoDiskSpace{
			FileFault: types.FileFault{File: "[" + w.datastore(m.at.datastore).Name + "] " + m.name},
			Datastore: w.datastore(m.at.datastore).Name,
		}
	}
	m.reserved = true
	w.names[reserved{m.at.folder, m.name}] = ref{Type: "VirtualMachine", Value: "vm-0"}
	return nil
}

// size is what the disks of a copy take: a child of a snapshot starts small.
func (m *copying) size() int64 {
	if m.linked {
		return gib
	}
	var out int64
	for _, device := range m.config.Hardware.Device {
		if disk, ok := device.(*types.VirtualDisk); ok {
			out += disk.CapacityInBytes
		}
	}
	return out
}

func (m *copying) appear() {
	if m.machine == nil {
		delete(m.world.names, reserved{m.at.folder, m.name})
		m.reserved = false
		m.machine = m.world.register(m.name, m.at)
		m.world.making[m.machine.Self] = true
	}
}

func (m *copying) complete(spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	w := m.world
	m.appear()
	if problem := w.reachable(w.host(m.at.host)); problem != nil {
		return problem
	}
	delete(w.making, m.machine.Self)
	w.moveDisks(m.config, m.name, m.at.datastore, m.linked)
	for _, device := range m.config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			card.GetVirtualEthernetCard().MacAddress = "" // a copy has its own addresses
			if problem := w.prepare(device, nil, m.config); problem != nil {
				return problem
			}
		}
	}
	if problem := w.configure(m.machine, m.config, spec); problem != nil {
		return problem
	}
	if m.config.InstanceUuid == "" {
		m.config.InstanceUuid = uuid.New().String()
	}
	w.fill(m.machine, m.config)
	w.book(w.used, m.machine.Self, m.size())
	w.summarize(m.machine)
	m.done = true
	w.event(event{Kind: "clone", VM: m.name, Ref: m.machine.Self.Value, Host: w.host(m.at.host).Name})
	return nil
}

// vanish takes back a copy that failed; one that was finished stays.
func (m *copying) vanish() {
	if m.reserved {
		delete(m.world.names, reserved{m.at.folder, m.name})
	}
	if m.machine != nil && !m.done {
		delete(m.world.making, m.machine.Self)
		m.world.unregister(m.machine)
	}
}

// instantCloneVM copies a running machine on its own host; it has no card of its own to share.
func instantCloneVM(c *call) answer {
	w, request := c.world, c.body.(*types.InstantClone_Task)
	source := w.vm(request.This)
	if source == nil {
		return notFound(request.This)
	}
	spec := request.Spec
	made := &copying{world: w, name: spec.Name, linked: true}
	task := c.start(source.Self, work{
		name: "instantClone",
		begin: func() types.BaseMethodFault {
			if problem := w.usable(source, false); problem != nil {
				return problem
			}
			if source.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
				return &types.InvalidPowerState{
					RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: source.Runtime.PowerState,
				}
			}
			if len(cardsOf(source.Config)) > 0 {
				return &types.NotSupported{}
			}
			at, problem := w.where(source, spec.Location.Folder, &spec.Location)
			if problem != nil {
				return problem
			}
			if at.host != *source.Runtime.Host {
				return &types.InvalidArgument{InvalidProperty: "spec.location.host"}
			}
			if problem := w.checkProfiles(spec.Location.Profile); problem != nil {
				return problem
			}
			made.at, made.folder = at, at.folder
			made.config = copyConfig(source.Config)
			made.config.InstanceUuid, made.config.Uuid = "", ""
			return made.reserve()
		},
		middle: made.appear,
		finish: func() (types.AnyType, types.BaseMethodFault) {
			config := &types.VirtualMachineConfigSpec{
				Uuid: spec.BiosUuid, ExtraConfig: spec.Config, DeviceChange: spec.Location.DeviceChange,
			}
			if problem := made.complete(config); problem != nil {
				return nil, problem
			}
			if problem := w.powerOn(made.machine); problem != nil {
				made.done = false
				return nil, problem
			}
			return made.machine.Self, nil
		},
		undo: made.vanish,
	})
	return answer{body: &methods.InstantClone_TaskBody{Res: &types.InstantClone_TaskResponse{Returnval: task}}}
}

// createVM makes a machine from nothing but a ConfigSpec.
func createVM(c *call) answer {
	w, request := c.world, c.body.(*types.CreateVM_Task)
	if w.registry.Get(request.This) == nil {
		return notFound(request.This)
	}
	made := &copying{world: w, name: request.Config.Name, folder: request.This}
	task := c.start(request.This, work{
		name: "createVm",
		begin: func() types.BaseMethodFault {
			pool := w.pool(request.Pool)
			if pool == nil {
				return &types.ManagedObjectNotFound{Obj: request.Pool}
			}
			if request.Config.Name == "" {
				return &types.InvalidArgument{InvalidProperty: "configSpec.name"}
			}
			made.at = place{folder: request.This, pool: request.Pool, host: w.hostRefs[0], datastore: w.mainDatastore}
			if request.Host != nil {
				made.at.host = *request.Host
			}
			made.config = w.newConfig(request.Config.GuestId)
			return made.reserve()
		},
		middle: made.appear,
		finish: func() (types.AnyType, types.BaseMethodFault) {
			if problem := made.complete(&request.Config); problem != nil {
				return nil, problem
			}
			return made.machine.Self, nil
		},
		undo: made.vanish,
	})
	return answer{body: &methods.CreateVM_TaskBody{Res: &types.CreateVM_TaskResponse{Returnval: task}}}
}
