package main

import (
	"fmt"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// model is a kind of card that a host can have.
type model struct {
	name                string
	device, audio       int16
	subVendor, subModel int16
	memoryGiB           int64
}

const nvidia = 0x10de

// models are the cards known by name: device ids of the display and of the audio function.
var models = map[string]model{
	"RTX 4090": {"AD102 [GeForce RTX 4090]", 0x2684, 0x22ba, 0x1043, 0x1e5a, 24},
	"RTX 3090": {"GA102 [GeForce RTX 3090]", 0x2204, 0x1aef, 0x1462, 0x3884, 24},
	"RTX 4080": {"AD103 [GeForce RTX 4080]", 0x2704, 0x22bb, 0x1043, 0x1e5b, 16},
	"A100":     {"GA100 [A100 PCIe 40GB]", 0x20f1, 0, nvidia, 0x145f, 40},
	"L40S":     {"AD102GL [L40S]", 0x26b9, 0x22ba, nvidia, 0x1851, 48},
}

// card is one physical card: whose it is, or how many vGPUs of which profile it can still hold.
type card struct {
	id      string
	model   model
	active  bool
	profile map[string]int
	holder  ref
	shares  []ref
	kind    string // the vGPU profile that all its shares have
}

func (w *world) host(target ref) *simulator.HostSystem {
	found, _ := w.registry.Get(target).(*simulator.HostSystem)
	return found
}

func (w *world) hostNamed(name string) *simulator.HostSystem {
	for _, self := range w.hostRefs {
		if h := w.host(self); h.Name == name {
			return h
		}
	}
	return nil
}

func (w *world) pool(target ref) *mo.ResourcePool {
	found := w.registry.Get(target)
	if found == nil {
		return nil
	}
	out, _ := managed(found).Addr().Interface().(*mo.ResourcePool)
	return out
}

func (w *world) datastore(target ref) *simulator.Datastore {
	found, _ := w.registry.Get(target).(*simulator.Datastore)
	return found
}

func (w *world) cluster() *simulator.ClusterComputeResource {
	return w.registry.Get(w.clusterRef).(*simulator.ClusterComputeResource)
}

// reachable says why nothing can be put or started on a host.
func (w *world) reachable(host *simulator.HostSystem) types.BaseMethodFault {
	switch host.Runtime.ConnectionState {
	case types.HostSystemConnectionStateNotResponding:
		return &types.HostNotReachable{}
	case types.HostSystemConnectionStateDisconnected:
		return &types.HostNotConnected{}
	}
	if host.Runtime.InMaintenanceMode {
		return &types.InvalidHostState{Host: &host.Self}
	}
	return nil
}

func (w *world) lockedMemory(host ref) int64 {
	var out int64
	for _, self := range w.host(host).Vm {
		machine := w.vm(self)
		if machine != nil && machine.Config != nil && machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
			if locked := machine.Config.MemoryReservationLockedToMax; locked != nil && *locked {
				out += int64(machine.Config.Hardware.MemoryMB)
			}
		}
	}
	return out
}

// bind gives a machine the cards it asks for, all or none.
func (w *world) bind(machine *simulator.VirtualMachine, wanted []*types.VirtualPCIPassthrough) types.BaseMethodFault {
	host := *machine.Runtime.Host
	taken := map[*card]bool{}
	var assign []func()
	for _, device := range wanted {
		var found *card
		switch backing := device.Backing.(type) {
		case *types.VirtualPCIPassthroughDynamicBackingInfo:
			for _, candidate := range w.cards[host] {
				if candidate.active && candidate.holder.Value == "" && !taken[candidate] && allowed(backing.AllowedDevice, candidate) {
					found = candidate
					break
				}
			}
			if found == nil {
				return w.noCard(machine, &types.InsufficientGraphicsResourcesFault{})
			}
			chosen := found
			assign = append(assign, func() { backing.AssignedId = w.cardName(chosen) })
		case *types.VirtualPCIPassthroughDeviceBackingInfo:
			for _, candidate := range w.cards[host] {
				if candidate.active && candidate.id == strings.TrimPrefix(backing.Id, "pci:") && candidate.holder.Value == "" && !taken[candidate] {
					found = candidate
				}
			}
			if found == nil {
				return w.noCard(machine, &types.GenericVmConfigFault{
					Reason: fmt.Sprintf("Device %s is not available: Module 'DevicePowerOn' power on failed.", backing.Id),
				})
			}
		case *types.VirtualPCIPassthroughVmiopBackingInfo:
			for _, candidate := range w.cards[host] {
				most := candidate.profile[backing.Vgpu]
				if len(candidate.shares) < most && (len(candidate.shares) == 0 || candidate.kind == backing.Vgpu) {
					found = candidate
					break
				}
			}
			if found == nil {
				return w.noCard(machine, &types.InsufficientGraphicsResourcesFault{})
			}
			chosen, kind := found, backing.Vgpu
			assign = append(assign, func() {
				chosen.shares, chosen.kind = append(chosen.shares, machine.Self), kind
			})
			continue
		}
		chosen := found
		taken[chosen] = true
		assign = append(assign, func() { chosen.holder = machine.Self })
	}
	for _, step := range assign {
		step()
	}
	w.showBindings(host)
	return nil
}

// noCard is the fault for a card that is not there; vCenter's own differ by version and by who decides.
func (w *world) noCard(machine *simulator.VirtualMachine, usual types.BaseMethodFault) types.BaseMethodFault {
	if w.config.NoCardFault == "" {
		return usual
	}
	made, err := newFault(w.config.NoCardFault, nil)
	if err != nil {
		return usual
	}
	return made
}

func allowed(list []types.VirtualPCIPassthroughAllowedDevice, candidate *card) bool {
	for _, device := range list {
		if device.VendorId&0xffff == nvidia && device.DeviceId&0xffff == int32(candidate.model.device)&0xffff {
			return true
		}
	}
	return false
}

func (w *world) release(machine *simulator.VirtualMachine) {
	for host, cards := range w.cards {
		changed := false
		for _, c := range cards {
			if c.holder == machine.Self {
				c.holder = ref{}
				changed = true
			}
			if kept := without(c.shares, machine.Self); len(kept) != len(c.shares) {
				c.shares = kept
				changed = true
			}
		}
		if changed {
			w.showBindings(host)
		}
	}
	for _, device := range cardsOf(machine.Config) {
		if backing, ok := device.Backing.(*types.VirtualPCIPassthroughDynamicBackingInfo); ok {
			backing.AssignedId = ""
		}
	}
}

// showBindings fills what a host says about its cards: whose they are.
func (w *world) showBindings(target ref) {
	host := w.host(target)
	host.Config.AssignableHardwareBinding = nil
	for i, c := range w.cards[target] {
		if c.holder.Value != "" {
			host.Config.AssignableHardwareBinding = append(host.Config.AssignableHardwareBinding,
				types.HostAssignableHardwareBinding{InstanceId: w.cardName(c), Vm: c.holder})
		}
		if i < len(host.Config.GraphicsInfo) {
			host.Config.GraphicsInfo[i].Vm = c.shares
		}
	}
	w.touch(target)
}

// cardName is how vCenter names a card in bindings and in devices. No documentation says which form that is.
func (w *world) cardName(c *card) string {
	switch w.config.CardNames {
	case "prefixed":
		return "pciPassthru:" + c.id
	case "decimal": // as a machine's .vmx file has it
		var domain, bus, slot, function int
		fmt.Sscanf(c.id, "%x:%x:%x.%x", &domain, &bus, &slot, &function)
		return fmt.Sprintf("%05d:%03d:%02d.%d", domain, bus, slot, function)
	}
	return c.id
}

// hostSpec is one host of the inventory and its cards.
type hostSpec struct {
	Name      string     `json:"name"`
	Cards     []cardSpec `json:"cards"`
	MemoryGiB int64      `json:"memory_gib"`
}

type cardSpec struct {
	Name   string         `json:"name"`
	Active *bool          `json:"active"`
	VGPU   map[string]int `json:"vgpu"`
}

// equip puts cards into a host, with the bridges and the network card that a real one lists beside them.
func (w *world) equip(host *simulator.HostSystem, spec hostSpec) error {
	devices := []types.HostPciDevice{
		{Id: "0000:00:00.0", ClassId: 0x600, VendorId: -0x7f7a, VendorName: "Intel Corporation", DeviceId: 0x2020, DeviceName: "Host bridge"},
		{Id: "0000:02:00.0", ClassId: 0x200, Bus: 2, VendorId: -0x7f7a, VendorName: "Intel Corporation", DeviceId: 0x1563, DeviceName: "Ethernet Controller X550"},
	}
	passthru := []types.BaseHostPciPassthruInfo{
		&types.HostPciPassthruInfo{Id: "0000:00:00.0", DependentDevice: "0000:00:00.0"},
		&types.HostPciPassthruInfo{Id: "0000:02:00.0", DependentDevice: "0000:02:00.0", PassthruCapable: true},
	}
	host.Config.GraphicsInfo, host.Config.SharedGpuCapabilities, host.Config.SharedPassthruGpuTypes = nil, nil, nil
	for i, item := range spec.Cards {
		kind, ok := models[item.Name]
		if !ok {
			return fmt.Errorf("host %s: no card %q is known", spec.Name, item.Name)
		}
		bus := byte(0x21 + i*0x10)
		id := fmt.Sprintf("0000:%02x:00.0", bus)
		active := len(item.VGPU) == 0 && (item.Active == nil || *item.Active)
		c := &card{id: id, model: kind, active: active, profile: item.VGPU}
		w.cards[host.Self] = append(w.cards[host.Self], c)
		display := types.HostPciDevice{
			Id: id, ClassId: 0x300, Bus: bus, VendorId: nvidia, SubVendorId: kind.subVendor, VendorName: "NVIDIA Corporation",
			DeviceId: kind.device, SubDeviceId: kind.subModel, ParentBridge: "0000:00:00.0", DeviceName: kind.name,
		}
		devices = append(devices, display)
		passthru = append(passthru, &types.HostPciPassthruInfo{
			Id: id, DependentDevice: id, PassthruCapable: true, PassthruEnabled: active, PassthruActive: active,
		})
		if kind.audio != 0 {
			audio := display
			audio.Id, audio.Function, audio.ClassId = fmt.Sprintf("0000:%02x:00.1", bus), 1, 0x403
			audio.DeviceId, audio.DeviceName = kind.audio, "High Definition Audio Controller"
			devices = append(devices, audio)
			passthru = append(passthru, &types.HostPciPassthruInfo{
				Id: audio.Id, DependentDevice: id, PassthruCapable: true, PassthruEnabled: active, PassthruActive: active,
			})
		}
		graphics := "direct"
		if len(item.VGPU) > 0 {
			graphics = "sharedDirect"
		}
		host.Config.GraphicsInfo = append(host.Config.GraphicsInfo, types.HostGraphicsInfo{
			DeviceName: kind.name, VendorName: "NVIDIA Corporation", PciId: id, GraphicsType: graphics, MemorySizeInKB: kind.memoryGiB << 20,
		})
		for profile := range item.VGPU {
			if !contains(host.Config.SharedPassthruGpuTypes, profile) {
				host.Config.SharedPassthruGpuTypes = append(host.Config.SharedPassthruGpuTypes, profile)
				host.Config.SharedGpuCapabilities = append(host.Config.SharedGpuCapabilities, types.HostSharedGpuCapabilities{Vgpu: profile})
			}
		}
	}
	host.OverallStatus, host.Summary.OverallStatus = types.ManagedEntityStatusGreen, types.ManagedEntityStatusGreen
	host.Hardware.PciDevice = devices
	host.Config.PciPassthruInfo = passthru
	memory := spec.MemoryGiB
	if memory == 0 {
		memory = 1024
	}
	host.Hardware.MemorySize = memory * gib
	host.Summary.Hardware.MemorySize = memory * gib
	host.Summary.Hardware.NumCpuCores, host.Summary.Hardware.NumCpuThreads = 64, 128
	host.Hardware.CpuInfo.NumCpuCores, host.Hardware.CpuInfo.NumCpuThreads = 64, 128
	host.Capability = copyCapability(host.Capability)
	host.Capability.AssignableHardwareSupported = types.NewBool(true)
	w.wire(host, hostNetwork{MTU: 9000, SpeedMb: 25000, Portgroup: "vSAN"})
	return nil
}

func copyCapability(from *types.HostCapability) *types.HostCapability {
	out := types.HostCapability{}
	if from != nil {
		out = *from
	}
	return &out
}

// setHost moves a host from one state to another, with what that does to its machines.
func (w *world) setHost(host *simulator.HostSystem, state string) error {
	connection := types.VirtualMachineConnectionStateConnected
	switch state {
	case "disconnect":
		host.Runtime.ConnectionState = types.HostSystemConnectionStateDisconnected
		connection = types.VirtualMachineConnectionStateDisconnected
	case "fail":
		// vCenter goes on showing the last it knew: machines that are on. They are not, and nobody restarts them.
		host.Runtime.ConnectionState = types.HostSystemConnectionStateNotResponding
		connection = types.VirtualMachineConnectionStateDisconnected
		w.failed[host.Self] = true
		for _, self := range host.Vm {
			machine := w.vm(self)
			if machine != nil && machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
				w.powerEvent("power_off", machine)
			}
		}
	case "reconnect":
		host.Runtime.ConnectionState = types.HostSystemConnectionStateConnected
		host.OverallStatus = types.ManagedEntityStatusGreen
		if w.failed[host.Self] { // it was restarted: what ran on it does not run any more
			delete(w.failed, host.Self)
			for _, self := range host.Vm {
				machine := w.vm(self)
				if machine != nil && machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
					w.stopped(machine)
				}
			}
		}
	case "maintenance":
		host.Runtime.InMaintenanceMode = true
	case "exit_maintenance":
		host.Runtime.InMaintenanceMode = false
	case "quarantine", "exit_quarantine":
		host.Runtime.InQuarantineMode = types.NewBool(state == "quarantine")
	case "lose_datastore":
		host.Datastore = without(host.Datastore, w.mainDatastore)
	case "lose_network":
		host.Network = nil
	case "reach_all":
		host.Datastore = with(without(host.Datastore, w.mainDatastore), w.mainDatastore)
		host.Network = nil
		for _, kind := range []string{"Network", "DistributedVirtualPortgroup"} {
			for _, entity := range w.registry.All(kind) {
				host.Network = with(host.Network, entity.Reference())
			}
		}
	case "red":
		host.OverallStatus = types.ManagedEntityStatusRed
	case "green":
		host.OverallStatus = types.ManagedEntityStatusGreen
	default:
		return fmt.Errorf("unknown state %q of a host", state)
	}
	if state == "fail" {
		host.OverallStatus = types.ManagedEntityStatusRed
	}
	host.Summary.OverallStatus = host.OverallStatus
	if state == "disconnect" || state == "fail" || state == "reconnect" {
		for _, self := range host.Vm {
			if machine := w.vm(self); machine != nil {
				machine.Runtime.ConnectionState = connection
				w.summarize(machine)
			}
		}
	}
	w.touch(host.Self)
	w.event(event{Kind: "host", Host: host.Name, Text: state})
	return nil
}

func hostTask(name, state string) func(*call) answer {
	return func(c *call) answer {
		w := c.world
		host := w.host(c.this)
		if host == nil {
			return notFound(c.this)
		}
		task := c.start(host.Self, work{name: name, finish: func() (types.AnyType, types.BaseMethodFault) {
			if state == "maintenance" {
				if problem := w.reachable(host); problem != nil {
					return nil, problem
				}
			}
			if err := w.setHost(host, state); err != nil {
				return nil, &types.InvalidArgument{}
			}
			return nil, nil
		}})
		switch name {
		case "enterMaintenanceMode":
			return answer{body: &methods.EnterMaintenanceMode_TaskBody{Res: &types.EnterMaintenanceMode_TaskResponse{Returnval: task}}}
		case "exitMaintenanceMode":
			return answer{body: &methods.ExitMaintenanceMode_TaskBody{Res: &types.ExitMaintenanceMode_TaskResponse{Returnval: task}}}
		case "disconnectHost":
			return answer{body: &methods.DisconnectHost_TaskBody{Res: &types.DisconnectHost_TaskResponse{Returnval: task}}}
		}
		return answer{body: &methods.ReconnectHost_TaskBody{Res: &types.ReconnectHost_TaskResponse{Returnval: task}}}
	}
}

// queryConfigTarget says what a host offers to machines; of all that only its PCI devices.
func queryConfigTarget(c *call) answer {
	request, target := c.body.(*types.QueryConfigTarget), &types.ConfigTarget{}
	if request.Host != nil {
		host := c.world.host(*request.Host)
		if host == nil {
			return notFound(*request.Host)
		}
		for _, device := range host.Hardware.PciDevice {
			target.PciPassthrough = append(target.PciPassthrough, &types.VirtualMachinePciPassthroughInfo{
				VirtualMachineTargetInfo: types.VirtualMachineTargetInfo{Name: device.Id}, PciDevice: device, SystemId: host.Name,
			})
		}
	}
	return answer{body: &methods.QueryConfigTargetBody{Res: &types.QueryConfigTargetResponse{Returnval: target}}}
}
