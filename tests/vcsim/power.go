package main

import (
	"fmt"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

func cardsOf(config *types.VirtualMachineConfigInfo) []*types.VirtualPCIPassthrough {
	var out []*types.VirtualPCIPassthrough
	if config == nil {
		return nil
	}
	for _, device := range config.Hardware.Device {
		if card, ok := device.(*types.VirtualPCIPassthrough); ok {
			out = append(out, card)
		}
	}
	return out
}

// powerOn starts a machine if its host has the cards, and the memory, that it asks for.
func (w *world) powerOn(machine *simulator.VirtualMachine) types.BaseMethodFault {
	host := w.host(*machine.Runtime.Host)
	if machine.Config.Template {
		return &types.InvalidState{}
	}
	if problem := w.reachable(host); problem != nil {
		return problem
	}
	if machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: machine.Runtime.PowerState,
		}
	}
	cards := cardsOf(machine.Config)
	locked := machine.Config.MemoryReservationLockedToMax
	if len(cards) > 0 && (locked == nil || !*locked) {
		return &types.GenericVmConfigFault{Reason: "Invalid memory setting: memory reservation (sched.mem.min) should be equal to memsize(" +
			fmt.Sprint(machine.Config.Hardware.MemoryMB) + ")."}
	}
	for _, hotAdd := range []*bool{machine.Config.CpuHotAddEnabled, machine.Config.MemoryHotAddEnabled} {
		if len(cards) > 0 && hotAdd != nil && *hotAdd {
			return &types.GenericVmConfigFault{Reason: "Hot add is enabled: it is not supported with passthrough devices."}
		}
	}
	if threads := int32(host.Hardware.CpuInfo.NumCpuThreads); machine.Config.Hardware.NumCPU > threads {
		return &types.NotEnoughLogicalCpus{NotEnoughCpus: types.NotEnoughCpus{NumCpuDest: threads, NumCpuVm: machine.Config.Hardware.NumCPU}}
	}
	if locked != nil && *locked && w.lockedMemory(host.Self)+int64(machine.Config.Hardware.MemoryMB) > host.Hardware.MemorySize>>20 {
		return &types.InsufficientMemoryResourcesFault{}
	}
	if problem := w.bind(machine, cards); problem != nil {
		return problem
	}
	booted := now()
	machine.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOn
	machine.Runtime.BootTime = &booted
	machine.Guest = offGuest(machine.Guest)
	w.account(machine)
	w.summarize(machine)
	w.touch(host.Self)
	w.powerEvent("power_on", machine)
	w.autoAddress(machine)
	return nil
}

// autoAddress lets the guest report an address a while after it was started, if the simulator was asked to.
func (w *world) autoAddress(machine *simulator.VirtualMachine) {
	if !w.config.AutoIP {
		return
	}
	booted := machine.Runtime.BootTime
	w.addresses++
	address := fmt.Sprintf("10.77.%d.%d", w.addresses/250, w.addresses%250+1)
	time.AfterFunc(time.Duration(w.config.BootMs)*time.Millisecond, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.vm(machine.Self) != nil && machine.Runtime.BootTime == booted {
			w.setGuest(machine, address, machine.Name)
		}
	})
}

func (w *world) powerOff(machine *simulator.VirtualMachine) types.BaseMethodFault {
	if machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOff {
		return &types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: machine.Runtime.PowerState,
		}
	}
	w.stopped(machine)
	w.powerEvent("power_off", machine)
	return nil
}

func (w *world) stopped(machine *simulator.VirtualMachine) {
	w.release(machine)
	machine.Runtime.PowerState = types.VirtualMachinePowerStatePoweredOff
	machine.Runtime.BootTime = nil
	machine.Guest = offGuest(machine.Guest)
	w.account(machine)
	w.summarize(machine)
}

func (w *world) powerEvent(kind string, machine *simulator.VirtualMachine) {
	extra := map[string]string{}
	for _, option := range machine.Config.ExtraConfig {
		extra[option.GetOptionValue().Key] = fmt.Sprint(option.GetOptionValue().Value)
	}
	w.event(event{
		Kind: kind, VM: machine.Name, Ref: machine.Self.Value, Host: w.host(*machine.Runtime.Host).Name,
		ExtraConfig: extra, InstanceUUID: machine.Config.InstanceUuid,
	})
}

// powerTask wraps what changes the power state of a machine.
func (c *call) powerTask(name string, act func(*simulator.VirtualMachine) types.BaseMethodFault) (ref, *answer) {
	w := c.world
	machine := w.vm(c.this)
	if machine == nil {
		a := notFound(c.this)
		return ref{}, &a
	}
	return c.start(machine.Self, work{name: name, finish: func() (types.AnyType, types.BaseMethodFault) {
		if problem := w.usable(machine, false); problem != nil {
			return nil, problem
		}
		return nil, act(machine)
	}}), nil
}

func powerOnVM(c *call) answer {
	if machine := c.world.vm(c.this); machine != nil {
		if host := c.body.(*types.PowerOnVM_Task).Host; host != nil && c.world.host(*host) != nil {
			c.world.move(machine, *host)
		}
	}
	task, problem := c.powerTask("powerOn", c.world.powerOn)
	if problem != nil {
		return *problem
	}
	return answer{body: &methods.PowerOnVM_TaskBody{Res: &types.PowerOnVM_TaskResponse{Returnval: task}}}
}

func powerOffVM(c *call) answer {
	task, problem := c.powerTask("powerOff", c.world.powerOff)
	if problem != nil {
		return *problem
	}
	return answer{body: &methods.PowerOffVM_TaskBody{Res: &types.PowerOffVM_TaskResponse{Returnval: task}}}
}

func resetVM(c *call) answer {
	task, problem := c.powerTask("reset", func(machine *simulator.VirtualMachine) types.BaseMethodFault {
		if problem := c.world.powerOff(machine); problem != nil {
			return problem
		}
		return c.world.powerOn(machine)
	})
	if problem != nil {
		return *problem
	}
	return answer{body: &methods.ResetVM_TaskBody{Res: &types.ResetVM_TaskResponse{Returnval: task}}}
}

// suspendVM refuses machines with cards, as vSphere does.
func suspendVM(c *call) answer {
	task, problem := c.powerTask("suspend", func(machine *simulator.VirtualMachine) types.BaseMethodFault {
		if machine.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
			return &types.InvalidPowerState{ExistingState: machine.Runtime.PowerState}
		}
		if len(cardsOf(machine.Config)) > 0 {
			return &types.NotSupported{}
		}
		c.world.stopped(machine)
		machine.Runtime.PowerState = types.VirtualMachinePowerStateSuspended
		c.world.summarize(machine)
		c.world.powerEvent("power_off", machine)
		return nil
	})
	if problem != nil {
		return *problem
	}
	return answer{body: &methods.SuspendVM_TaskBody{Res: &types.SuspendVM_TaskResponse{Returnval: task}}}
}

// shutdownGuest needs running VMware Tools, and is no task: the machine is off some time later.
func shutdownGuest(c *call) answer {
	w := c.world
	machine := w.vm(c.this)
	if machine == nil {
		return notFound(c.this)
	}
	if machine.Runtime.PowerState != types.VirtualMachinePowerStatePoweredOn {
		return fault(&types.InvalidPowerState{
			RequestedState: types.VirtualMachinePowerStatePoweredOn, ExistingState: machine.Runtime.PowerState,
		})
	}
	if machine.Guest.ToolsRunningStatus != string(types.VirtualMachineToolsRunningStatusGuestToolsRunning) {
		return fault(&types.ToolsUnavailable{})
	}
	time.AfterFunc(time.Duration(w.config.TaskMs)*time.Millisecond, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.vm(machine.Self) != nil && machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn {
			w.stopped(machine)
			w.powerEvent("power_off", machine)
		}
	})
	return answer{body: &methods.ShutdownGuestBody{Res: &types.ShutdownGuestResponse{}}}
}
