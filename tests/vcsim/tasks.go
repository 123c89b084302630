package main

import (
	"fmt"
	"reflect"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// work is what a task does: begin when it starts to run, middle half-way, finish at the end. undo takes back what
// begin and middle did when something went wrong. All are called with the world locked.
type work struct {
	name   string
	begin  func() types.BaseMethodFault
	middle func()
	finish func() (types.AnyType, types.BaseMethodFault)
	undo   func()
	quick  bool
}

type running struct {
	ref  ref
	work work
	lost bool
}

// start makes a task and lets it go from queued over running to its end, while the caller already has its answer.
func (c *call) start(entity ref, job work) ref {
	w := c.world
	task := simulator.CreateTask(entity, job.name, nil)
	task.Info.Cancelable = false
	if named, ok := w.registry.Get(entity).(mo.Entity); ok {
		task.Info.EntityName = named.Entity().Name
	}
	w.chains++
	task.Info.EventChainId = w.chains
	if c.session != nil {
		task.Info.Reason = &types.TaskReasonUser{UserName: c.session.user.UserName}
	}
	w.remember(entity, task.Self)
	state := &running{ref: task.Self, work: job}
	w.running[task.Self] = state
	total := time.Duration(w.config.TaskMs) * time.Millisecond
	if job.quick {
		total /= 4
	}
	go c.run(state, total, c.taskFault, c.taskLate)
	return task.Self
}

func (c *call) run(state *running, total time.Duration, injected types.BaseMethodFault, late bool) {
	w, job := c.world, state.work
	pause := func(part time.Duration) bool { // true if the task is still vCenter's business
		w.mu.Unlock()
		time.Sleep(part)
		w.mu.Lock()
		return !state.lost
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !pause(total / 10) {
		return
	}
	started := now()
	w.setTask(state.ref, func(info *types.TaskInfo) {
		info.State, info.StartTime = types.TaskInfoStateRunning, &started
	})
	var problem types.BaseMethodFault
	var result types.AnyType
	if job.begin != nil {
		problem = job.begin()
	}
	if problem == nil {
		alive := pause(total * 4 / 10)
		if alive && job.middle != nil {
			job.middle()
		}
		if alive {
			w.setTask(state.ref, func(info *types.TaskInfo) { info.Progress = 50 })
			alive = pause(total / 2)
		}
		if !alive {
			return
		}
		if injected != nil && !late {
			problem = injected
		} else {
			result, problem = job.finish()
			if late && problem == nil {
				result, problem = nil, injected
			}
		}
		if problem != nil && !(late && problem == injected) && job.undo != nil {
			job.undo()
		}
	}
	delete(w.running, state.ref)
	w.endTask(state.ref, result, problem)
}

func (w *world) setTask(self ref, change func(*types.TaskInfo)) {
	if task, ok := w.registry.Get(self).(*simulator.Task); ok {
		change(&task.Info)
		w.touch(self)
	}
}

func (w *world) endTask(self ref, result types.AnyType, problem types.BaseMethodFault) {
	ended := now()
	w.setTask(self, func(info *types.TaskInfo) {
		info.CompleteTime, info.Progress = &ended, 100
		if problem == nil {
			info.State, info.Result = types.TaskInfoStateSuccess, result
			return
		}
		info.State = types.TaskInfoStateError
		info.Error = &types.LocalizedMethodFault{Fault: problem, LocalizedMessage: message(problem)}
	})
}

// message is the sentence that comes with a fault.
func message(problem types.BaseMethodFault) string {
	switch f := problem.(type) {
	case *types.DuplicateName:
		return fmt.Sprintf("The name '%s' already exists.", f.Name)
	case *types.NoDiskSpace:
		return fmt.Sprintf("Insufficient disk space on datastore '%s'.", f.Datastore)
	case *types.InvalidPowerState:
		return fmt.Sprintf("The attempted operation cannot be performed in the current state (%s).", f.ExistingState)
	case *types.GenericVmConfigFault:
		return f.Reason
	case *types.ManagedObjectNotFound:
		return fmt.Sprintf("The object '%s:%s' has already been deleted or has not been completely created", f.Obj.Type, f.Obj.Value)
	case *types.InvalidArgument:
		return fmt.Sprintf("A specified parameter was not correct: %s", f.InvalidProperty)
	}
	return reflect.TypeOf(problem).Elem().Name()
}

// remember lists a task as recent on its entity, which keeps the last few.
func (w *world) remember(entity, task ref) {
	if found, ok := w.registry.Get(entity).(mo.Entity); ok {
		e := found.Entity()
		recent := append(append([]ref{}, e.RecentTask...), task)
		if len(recent) > 10 {
			recent = recent[len(recent)-10:]
		}
		e.RecentTask = recent
		w.touch(entity)
	}
}

// loseTasks is what a restart of vCenter does to running tasks. Finishing them lets the hosts' work reach its end
// with nobody told; otherwise what they had begun is taken back.
func (w *world) loseTasks(finish bool) {
	for self, state := range w.running {
		state.lost = true
		delete(w.running, self)
		if finish {
			if state.work.begin == nil || w.begun(self) || state.work.begin() == nil {
				if _, problem := state.work.finish(); problem != nil && state.work.undo != nil {
					state.work.undo()
				}
			}
		} else if w.begun(self) && state.work.undo != nil {
			state.work.undo()
		}
		w.registry.Remove(self)
	}
}

func (w *world) begun(self ref) bool {
	task, ok := w.registry.Get(self).(*simulator.Task)
	return ok && task.Info.State == types.TaskInfoStateRunning
}
