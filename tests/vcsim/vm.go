package main

import (
	"fmt"
	"path"
	"reflect"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

const gib = int64(1) << 30

// copyOf copies a value with all that hangs on it.
func copyOf(value reflect.Value) reflect.Value {
	out := reflect.New(value.Type()).Elem()
	switch value.Kind() {
	case reflect.Ptr:
		if !value.IsNil() {
			inner := reflect.New(value.Type().Elem())
			inner.Elem().Set(copyOf(value.Elem()))
			out.Set(inner)
		}
	case reflect.Interface:
		if !value.IsNil() {
			out.Set(copyOf(value.Elem()))
		}
	case reflect.Slice:
		if !value.IsNil() {
			out.Set(reflect.MakeSlice(value.Type(), value.Len(), value.Len()))
			for i := 0; i < value.Len(); i++ {
				out.Index(i).Set(copyOf(value.Index(i)))
			}
		}
	case reflect.Struct:
		if value.Type() == reflect.TypeOf(time.Time{}) {
			return value
		}
		for i := 0; i < value.NumField(); i++ {
			out.Field(i).Set(copyOf(value.Field(i)))
		}
	default:
		out.Set(value)
	}
	return out
}

func copyConfig(config *types.VirtualMachineConfigInfo) *types.VirtualMachineConfigInfo {
	return copyOf(reflect.ValueOf(config)).Interface().(*types.VirtualMachineConfigInfo)
}

func (w *world) vm(target ref) *simulator.VirtualMachine {
	found, _ := w.registry.Get(target).(*simulator.VirtualMachine)
	return found
}

// vms gives all virtual machines in the order they were made.
func (w *world) vms() []*simulator.VirtualMachine {
	var out []*simulator.VirtualMachine
	for _, self := range w.vmOrder {
		if found := w.vm(self); found != nil {
			out = append(out, found)
		}
	}
	return out
}

// place is where a machine is to be.
type place struct {
	folder, pool, host, datastore ref
}

// register puts a machine that has only a name yet into the inventory: what a client sees of a clone half-way.
func (w *world) register(name string, at place) *simulator.VirtualMachine {
	machine := &simulator.VirtualMachine{}
	w.serial++
	machine.Self = ref{Type: "VirtualMachine", Value: fmt.Sprintf("vm-%d", w.serial)}
	machine.Name = name
	folder, pool, host := at.folder, at.pool, at.host
	machine.Parent, machine.ResourcePool = &folder, &pool
	machine.Runtime.Host = &host
	machine.Runtime.ConnectionState = types.VirtualMachineConnectionStateConnected
	machine.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOff
	machine.Guest = offGuest(nil)
	self := machine.Self
	machine.Summary.Vm = &self
	machine.Summary.Config.Name = name
	machine.Datastore = []ref{at.datastore}
	w.vmOrder = append(w.vmOrder, machine.Self)
	f := w.registry.Get(folder)
	parent := managed(f).Addr().Interface().(*mo.Folder)
	parent.ChildEntity = with(parent.ChildEntity, machine.Self)
	w.registry.Put(machine)
	h := w.host(host)
	h.Vm = with(h.Vm, machine.Self)
	p := w.pool(pool)
	p.Vm = with(p.Vm, machine.Self)
	d := w.datastore(at.datastore)
	d.Vm = with(d.Vm, machine.Self)
	machine.EnvironmentBrowser = *w.cluster().EnvironmentBrowser
	w.summarize(machine)
	w.touch(folder, pool, host, at.datastore)
	w.reshape()
	return machine
}

// unregister takes a machine out of the inventory and gives back what it held.
func (w *world) unregister(machine *simulator.VirtualMachine) {
	self := machine.Self
	w.release(machine)
	if f := w.registry.Get(*machine.Parent); f != nil {
		parent := managed(f).Addr().Interface().(*mo.Folder)
		parent.ChildEntity = without(parent.ChildEntity, self)
	}
	if h := w.host(*machine.Runtime.Host); h != nil {
		h.Vm = without(h.Vm, self)
		w.touch(h.Self)
	}
	if machine.ResourcePool != nil {
		p := w.pool(*machine.ResourcePool)
		p.Vm = without(p.Vm, self)
		w.touch(*machine.ResourcePool)
	}
	for _, at := range machine.Datastore {
		d := w.datastore(at)
		d.Vm = without(d.Vm, self)
	}
	cluster := w.cluster()
	if settings, ok := cluster.ConfigurationEx.(*types.ClusterConfigInfoEx); ok {
		var kept []types.ClusterDasVmConfigInfo
		for _, override := range settings.DasVmConfig {
			if override.Key != self {
				kept = append(kept, override)
			}
		}
		settings.DasVmConfig = kept
		w.touch(cluster.Self)
	}
	w.book(w.used, self, 0)
	w.book(w.swap, self, 0)
	delete(w.profiles, self)
	delete(w.diskProfiles, self)
	w.vmOrder = without(w.vmOrder, self)
	w.registry.Remove(self)
	w.touch(self, *machine.Parent)
	w.reshape()
}

func with(list []ref, item ref) []ref { return append(append([]ref{}, list...), item) }

func without(list []ref, item ref) []ref {
	var out []ref
	for _, other := range list {
		if other != item {
			out = append(out, other)
		}
	}
	return out
}

func offGuest(before *types.GuestInfo) *types.GuestInfo {
	guest := &types.GuestInfo{
		ToolsStatus:        types.VirtualMachineToolsStatusToolsNotRunning,
		ToolsRunningStatus: string(types.VirtualMachineToolsRunningStatusGuestToolsNotRunning),
		ToolsVersionStatus: string(types.VirtualMachineToolsVersionStatusGuestToolsUnmanaged),
		GuestState:         string(types.VirtualMachineGuestStateNotRunning),
	}
	if before != nil {
		guest.HostName = before.HostName
	}
	return guest
}

// summarize fills the summary from what the machine is now.
func (w *world) summarize(machine *simulator.VirtualMachine) {
	s := &machine.Summary
	s.Runtime = machine.Runtime
	s.OverallStatus = types.ManagedEntityStatusGreen
	s.QuickStats.GuestHeartbeatStatus = types.ManagedEntityStatusGray
	s.Guest = &types.VirtualMachineGuestSummary{
		ToolsStatus: machine.Guest.ToolsStatus, ToolsRunningStatus: machine.Guest.ToolsRunningStatus,
		HostName: machine.Guest.HostName, IpAddress: machine.Guest.IpAddress,
	}
	s.Storage = &types.VirtualMachineStorageSummary{Committed: w.used[machine.Self], Timestamp: now()}
	s.Config.Name = machine.Name
	config := machine.Config
	if config == nil {
		w.touch(machine.Self)
		return
	}
	var cards, disks, vgpus int32
	for _, device := range config.Hardware.Device {
		switch d := device.(type) {
		case types.BaseVirtualEthernetCard:
			cards++
		case *types.VirtualDisk:
			disks++
		case *types.VirtualPCIPassthrough:
			if _, ok := d.Backing.(*types.VirtualPCIPassthroughVmiopBackingInfo); ok {
				vgpus++
			}
		}
	}
	s.Config = types.VirtualMachineConfigSummary{
		Name: machine.Name, Template: config.Template, VmPathName: config.Files.VmPathName,
		MemorySizeMB: config.Hardware.MemoryMB, NumCpu: config.Hardware.NumCPU, NumEthernetCards: cards,
		NumVirtualDisks: disks, NumVmiopBackings: vgpus, Uuid: config.Uuid, InstanceUuid: config.InstanceUuid,
		GuestId: config.GuestId, GuestFullName: config.GuestFullName, Annotation: config.Annotation, HwVersion: config.Version,
	}
	if allocation := config.MemoryAllocation; allocation != nil && allocation.Reservation != nil {
		s.Config.MemoryReservation = int32(*allocation.Reservation)
	}
	w.touch(machine.Self)
}

// fill gives a registered machine its configuration: from here on it is a machine like any other.
func (w *world) fill(machine *simulator.VirtualMachine, config *types.VirtualMachineConfigInfo) {
	name := machine.Name
	datastore := w.datastore(machine.Datastore[0]).Name
	folder := fmt.Sprintf("[%s] %s", datastore, name)
	config.Name = name
	if config.Uuid == "" {
		config.Uuid = uuid.New().String()
	}
	config.Template = false
	config.Files = types.VirtualMachineFileInfo{
		VmPathName: path.Join(folder, name+".vmx"), SnapshotDirectory: folder, SuspendDirectory: folder, LogDirectory: folder,
	}
	config.VmStorageObjectId = uuid.New().String()
	created := now()
	config.CreateDate = &created
	machine.Config = config
	machine.Layout = &types.VirtualMachineFileLayout{}
	machine.LayoutEx = &types.VirtualMachineFileLayoutEx{Timestamp: now()}
	machine.Storage = &types.VirtualMachineStorageInfo{Timestamp: now()}
	w.modified(machine)
}

// modified gives the configuration a new version, which an older changeVersion then no longer matches.
func (w *world) modified(machine *simulator.VirtualMachine) {
	machine.Config.Modified = now()
	w.serial++
	machine.Config.ChangeVersion = fmt.Sprintf("%s.%d", machine.Config.Modified.Format(time.RFC3339Nano), w.serial)
	machine.Network = nil
	for _, device := range machine.Config.Hardware.Device {
		if card, ok := device.(types.BaseVirtualEthernetCard); ok {
			if network := w.networkOf(card.GetVirtualEthernetCard().Backing); network != nil {
				machine.Network = append(machine.Network, *network)
			}
		}
	}
	w.account(machine)
	w.summarize(machine)
}

// configure applies a ConfigSpec to a configuration, devices and extraConfig included.
func (w *world) configure(machine *simulator.VirtualMachine, config *types.VirtualMachineConfigInfo, spec *types.VirtualMachineConfigSpec) types.BaseMethodFault {
	for _, change := range []struct {
		from string
		to   *string
	}{
		{spec.Annotation, &config.Annotation}, {spec.GuestId, &config.GuestId}, {spec.GuestId, &config.GuestFullName},
		{spec.Firmware, &config.Firmware}, {spec.Version, &config.Version}, {spec.Uuid, &config.Uuid},
		{spec.AlternateGuestName, &config.AlternateGuestName}, {spec.LocationId, &config.LocationId},
		{spec.SwapPlacement, &config.SwapPlacement},
	} {
		if change.from != "" {
			*change.to = change.from
		}
	}
	for _, change := range []struct{ from, to interface{} }{
		{spec.NestedHVEnabled, &config.NestedHVEnabled}, {spec.CpuHotAddEnabled, &config.CpuHotAddEnabled},
		{spec.CpuHotRemoveEnabled, &config.CpuHotRemoveEnabled}, {spec.MemoryHotAddEnabled, &config.MemoryHotAddEnabled},
		{spec.MemoryReservationLockedToMax, &config.MemoryReservationLockedToMax},
		{spec.ChangeTrackingEnabled, &config.ChangeTrackingEnabled}, {spec.VPMCEnabled, &config.VPMCEnabled},
		{spec.LatencySensitivity, &config.LatencySensitivity}, {spec.BootOptions, &config.BootOptions},
		{spec.ManagedBy, &config.ManagedBy}, {spec.Tools, &config.Tools}, {spec.CpuAllocation, &config.CpuAllocation},
		{spec.MemoryAllocation, &config.MemoryAllocation}, {spec.CpuAffinity, &config.CpuAffinity},
	} {
		if from := reflect.ValueOf(change.from); !from.IsNil() {
			reflect.ValueOf(change.to).Elem().Set(from)
		}
	}
	if spec.Flags != nil {
		config.Flags = *spec.Flags
	}
	if spec.MemoryMB != 0 {
		config.Hardware.MemoryMB = int32(spec.MemoryMB)
	}
	if spec.NumCPUs != 0 {
		config.Hardware.NumCPU = spec.NumCPUs
	}
	if spec.NumCoresPerSocket != 0 {
		config.Hardware.NumCoresPerSocket = spec.NumCoresPerSocket
	}
	if locked := config.MemoryReservationLockedToMax; locked != nil && *locked {
		reserved := int64(config.Hardware.MemoryMB)
		allocation := types.ResourceAllocationInfo{}
		if config.MemoryAllocation != nil {
			allocation = *config.MemoryAllocation
		}
		allocation.Reservation = &reserved
		config.MemoryAllocation = &allocation
	}
	if spec.InstanceUuid != "" {
		config.InstanceUuid = w.freeInstanceUUID(machine.Self, spec.InstanceUuid)
	}
	if problem := w.changeDevices(config, spec.DeviceChange); problem != nil {
		return problem
	}
	w.changeExtra(machine, config, spec.ExtraConfig)
	return nil
}

// freeInstanceUUID keeps instance UUIDs unique, which is vCenter's promise: the identifier of a machine that asks for
// one in use is changed (vSphere's VmInstanceUuidConflictEvent), and nothing fails.
func (w *world) freeInstanceUUID(self ref, wanted string) string {
	for _, other := range w.vms() {
		if other.Self != self && other.Config != nil && strings.EqualFold(other.Config.InstanceUuid, wanted) {
			return uuid.New().String()
		}
	}
	return strings.ToLower(wanted)
}

// changeExtra sets keys, replaces those there are, and removes those set to "". SET.guest.ipAddress is a hook.
func (w *world) changeExtra(machine *simulator.VirtualMachine, config *types.VirtualMachineConfigInfo, changes []types.BaseOptionValue) {
	options := append([]types.BaseOptionValue{}, config.ExtraConfig...)
	for _, change := range changes {
		item := *change.GetOptionValue()
		if item.Key == "SET.guest.ipAddress" {
			w.setGuest(machine, fmt.Sprint(item.Value), "")
			continue
		}
		kept := options[:0:0]
		done := item.Value == nil || item.Value == ""
		for _, option := range options {
			if option.GetOptionValue().Key != item.Key {
				kept = append(kept, option)
			} else if !done {
				kept = append(kept, &types.OptionValue{Key: item.Key, Value: item.Value})
				done = true
			}
		}
		if !done {
			kept = append(kept, &types.OptionValue{Key: item.Key, Value: item.Value})
		}
		options = kept
	}
	config.ExtraConfig = options
}

func (w *world) setGuest(machine *simulator.VirtualMachine, address, name string) {
	guest := copyOf(reflect.ValueOf(machine.Guest)).Interface().(*types.GuestInfo)
	guest.IpAddress = address
	guest.Net = nil
	if name != "" {
		guest.HostName = name
	}
	if address != "" {
		guest.Net = []types.GuestNicInfo{{IpAddress: []string{address}, Connected: true, DeviceConfigId: 4000}}
		guest.ToolsStatus = types.VirtualMachineToolsStatusToolsOk
		guest.ToolsRunningStatus = string(types.VirtualMachineToolsRunningStatusGuestToolsRunning)
		guest.GuestState = string(types.VirtualMachineGuestStateRunning)
	}
	machine.Guest = guest
	w.summarize(machine)
}

func reconfigVM(c *call) answer {
	w, request := c.world, c.body.(*types.ReconfigVM_Task)
	machine := w.vm(request.This)
	if machine == nil {
		return notFound(request.This)
	}
	task := c.start(machine.Self, work{name: "reconfigVm", finish: func() (types.AnyType, types.BaseMethodFault) {
		if problem := w.usable(machine, false); problem != nil {
			return nil, problem
		}
		spec := &request.Spec
		if spec.ChangeVersion != "" && spec.ChangeVersion != machine.Config.ChangeVersion {
			return nil, &types.ConcurrentAccess{}
		}
		if machine.Config.Template && (len(spec.DeviceChange) > 0 || spec.NumCPUs != 0 || spec.MemoryMB != 0 || len(spec.ExtraConfig) > 0) {
			return nil, &types.NotSupported{}
		}
		if machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn && changesCards(spec.DeviceChange) {
			return nil, &types.InvalidPowerState{
				RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: machine.Runtime.PowerState,
			}
		}
		if problem := w.mayRename(machine, spec.Name); problem != nil {
			return nil, problem
		}
		config := copyConfig(machine.Config)
		if problem := w.configure(machine, config, spec); problem != nil {
			return nil, problem
		}
		if problem := w.checkProfiles(spec.VmProfile); problem != nil {
			return nil, problem
		}
		w.changeProfiles(machine.Self, spec)
		if spec.Name != "" {
			machine.Name, config.Name = spec.Name, spec.Name
		}
		machine.Config = config
		w.modified(machine)
		return nil, nil
	}})
	return answer{body: &methods.ReconfigVM_TaskBody{Res: &types.ReconfigVM_TaskResponse{Returnval: task}}}
}

// usable says why a machine cannot be worked on: gone, not finished yet, or on a host that vCenter cannot reach.
func (w *world) usable(machine *simulator.VirtualMachine, halfMade bool) types.BaseMethodFault {
	if w.vm(machine.Self) == nil {
		return &types.ManagedObjectNotFound{Obj: machine.Self}
	}
	if machine.Config == nil && !halfMade {
		return &types.InvalidState{}
	}
	switch w.host(*machine.Runtime.Host).Runtime.ConnectionState {
	case types.HostSystemConnectionStateConnected:
	case types.HostSystemConnectionStateNotResponding:
		return &types.HostNotReachable{}
	default:
		return &types.HostNotConnected{}
	}
	if w.making[machine.Self] {
		return &types.TaskInProgress{}
	}
	return nil
}

func (w *world) mayRename(machine *simulator.VirtualMachine, name string) types.BaseMethodFault {
	if name == "" || name == machine.Name {
		return nil
	}
	return w.nameTaken(*machine.Parent, name)
}

// nameTaken is vCenter's rule: one name in one folder, counting machines that are still being made.
func (w *world) nameTaken(folder ref, name string) types.BaseMethodFault {
	for _, child := range w.children(folder) {
		if entity, ok := w.registry.Get(child).(mo.Entity); ok && entity.Entity().Name == name {
			return &types.DuplicateName{Name: name, Object: child}
		}
	}
	if holder, ok := w.names[reserved{folder, name}]; ok {
		return &types.DuplicateName{Name: name, Object: holder}
	}
	return nil
}

type reserved struct {
	folder ref
	name   string
}

func renameEntity(c *call) answer {
	w, request := c.world, c.body.(*types.Rename_Task)
	machine := w.vm(request.This)
	if machine == nil {
		return answer{}
	}
	task := c.start(machine.Self, work{name: "rename", finish: func() (types.AnyType, types.BaseMethodFault) {
		if problem := w.usable(machine, false); problem != nil {
			return nil, problem
		}
		if problem := w.mayRename(machine, request.NewName); problem != nil {
			return nil, problem
		}
		machine.Name, machine.Config.Name = request.NewName, request.NewName
		w.modified(machine)
		return nil, nil
	}})
	return answer{body: &methods.Rename_TaskBody{Res: &types.Rename_TaskResponse{Returnval: task}}}
}

func destroyEntity(c *call) answer {
	w, request := c.world, c.body.(*types.Destroy_Task)
	machine := w.vm(request.This)
	if machine == nil {
		if request.This.Type == "VirtualMachine" {
			return notFound(request.This)
		}
		return answer{}
	}
	task := c.start(machine.Self, work{name: "destroy", finish: func() (types.AnyType, types.BaseMethodFault) {
		if problem := w.usable(machine, false); problem != nil {
			return nil, problem
		}
		if machine.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
			return nil, &types.InvalidPowerState{
				RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: machine.Runtime.PowerState,
			}
		}
		w.event(event{Kind: "destroy", VM: machine.Name, Ref: machine.Self.Value})
		w.unregister(machine)
		return nil, nil
	}})
	return answer{body: &methods.Destroy_TaskBody{Res: &types.Destroy_TaskResponse{Returnval: task}}}
}

func unregisterVM(c *call) answer {
	w := c.world
	machine := w.vm(c.this)
	if machine == nil {
		return notFound(c.this)
	}
	if machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
		return fault(&types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: machine.Runtime.PowerState,
		})
	}
	w.event(event{Kind: "unregister", VM: machine.Name, Ref: machine.Self.Value})
	w.unregister(machine)
	return answer{body: &methods.UnregisterVMBody{Res: &types.UnregisterVMResponse{}}}
}

func markAsTemplate(c *call) answer {
	w := c.world
	machine := w.vm(c.this)
	if machine == nil {
		return notFound(c.this)
	}
	if machine.Config.Template {
		return fault(&types.NotSupported{})
	}
	if machine.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOff {
		return fault(&types.InvalidPowerState{ExistingState: machine.Runtime.PowerState})
	}
	w.toTemplate(machine)
	return answer{body: &methods.MarkAsTemplateBody{Res: &types.MarkAsTemplateResponse{}}}
}

func (w *world) toTemplate(machine *simulator.VirtualMachine) {
	pool := w.pool(*machine.ResourcePool)
	pool.Vm = without(pool.Vm, machine.Self)
	w.touch(*machine.ResourcePool)
	machine.ResourcePool = nil
	machine.Config.Template = true
	w.modified(machine)
	w.reshape()
}

func markAsVirtualMachine(c *call) answer {
	w, request := c.world, c.body.(*types.MarkAsVirtualMachine)
	machine := w.vm(c.this)
	if machine == nil {
		return notFound(c.this)
	}
	if !machine.Config.Template {
		return fault(&types.NotSupported{})
	}
	pool := request.Pool
	machine.ResourcePool = &pool
	machine.Config.Template = false
	p := w.pool(pool)
	p.Vm = with(p.Vm, machine.Self)
	w.touch(pool)
	if request.Host != nil {
		w.move(machine, *request.Host)
	}
	w.modified(machine)
	w.reshape()
	return answer{body: &methods.MarkAsVirtualMachineBody{Res: &types.MarkAsVirtualMachineResponse{}}}
}

func (w *world) move(machine *simulator.VirtualMachine, to ref) {
	from := w.host(*machine.Runtime.Host)
	from.Vm = without(from.Vm, machine.Self)
	target := w.host(to)
	target.Vm = with(target.Vm, machine.Self)
	host := to
	machine.Runtime.Host = &host
	w.summarize(machine)
	w.touch(from.Self, to)
}
