package main

import (
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"path"
	"reflect"
	"sync"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

// injection is a fault that waits for the n-th call of the methods that a shell pattern matches.
type injection struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Nth    int             `json:"nth"`
	Times  int             `json:"times"`
	Kind   string          `json:"kind"`
	Fault  string          `json:"fault"`
	Args   json.RawMessage `json:"args"`
	Ms     int             `json:"ms"`
	Fired  int             `json:"fired"`

	seen    int
	release chan struct{}
	free    func()
}

var kinds = map[string]bool{
	"task_error": true, "task_error_late": true, "soap_fault": true, "http_503": true, "drop_before": true,
	"drop_after": true, "slow": true, "hang_before": true, "hang_after": true, "end_session": true,
}

// newFault makes a fault of any vSphere type; args sets its fields by their Go names.
func newFault(name string, args json.RawMessage) (types.BaseMethodFault, error) {
	kind, ok := types.TypeFunc()(name)
	if !ok {
		return nil, fmt.Errorf("vSphere has no fault %q", name)
	}
	made, ok := reflect.New(kind).Interface().(types.BaseMethodFault)
	if !ok {
		return nil, fmt.Errorf("%q is no fault", name)
	}
	if len(args) > 0 && string(args) != "null" {
		if err := json.Unmarshal(args, made); err != nil {
			return nil, fmt.Errorf("cannot set the fields of %s: %s", name, err)
		}
	}
	nameReferences(reflect.ValueOf(made).Elem())
	return made, nil
}

// nameReferences fills required references and states that nobody has set: without them no client can read a fault.
func nameReferences(value reflect.Value) {
	for i := 0; i < value.NumField(); i++ {
		field := value.Field(i)
		if reference, ok := field.Interface().(ref); ok {
			if reference.Type == "" {
				field.Set(reflect.ValueOf(ref{Type: "Task", Value: "task-0"}))
			}
		} else if state, ok := field.Interface().(types.VirtualMachinePowerState); ok && state == "" {
			field.SetString(string(types.VirtualMachinePowerStateSuspended))
		} else if field.Kind() == reflect.Struct && field.Type().PkgPath() != "time" {
			nameReferences(field)
		}
	}
}

func (w *world) arm(f *injection) error {
	if !kinds[f.Kind] {
		return fmt.Errorf("unknown kind of fault %q", f.Kind)
	}
	if f.Fault == "" {
		f.Fault = "GenericVmConfigFault"
	}
	if _, err := newFault(f.Fault, f.Args); err != nil {
		return err
	}
	if f.Nth < 1 {
		f.Nth = 1
	}
	if f.Times < 1 {
		f.Times = 1
	}
	w.faultID++
	f.ID, f.release = w.faultID, make(chan struct{})
	var once sync.Once
	f.free = func() { once.Do(func() { close(f.release) }) }
	w.faults = append(w.faults, f)
	return nil
}

// nextFault counts a call for each waiting fault and gives the one whose turn it is.
func (w *world) nextFault(c *call) *injection {
	var hit *injection
	for _, f := range w.faults {
		if match, _ := path.Match(f.Method, c.method); !match {
			continue
		}
		f.seen++
		if hit == nil && f.seen >= f.Nth && f.Fired < f.Times {
			hit = f
			f.Fired++
		}
	}
	if hit == nil {
		return nil
	}
	w.event(event{Kind: "fault", Method: c.method, Fault: hit.ID, Text: hit.Kind})
	switch hit.Kind {
	case "task_error", "task_error_late":
		c.taskFault, _ = newFault(hit.Fault, hit.Args)
		c.taskLate = hit.Kind == "task_error_late"
	case "end_session":
		w.endSessions()
		c.session = nil
	}
	return hit
}

func drop() { panic(http.ErrAbortHandler) }

// before does what comes before a call takes effect; false if that was all.
func (f *injection) before(c *call) bool {
	switch f.Kind {
	case "soap_fault":
		made, _ := newFault(f.Fault, f.Args)
		c.finish(faultText(message(made), made))
		return false
	case "http_503":
		c.writer.Header().Set("Retry-After", "1")
		http.Error(c.writer, "503 Service Unavailable", http.StatusServiceUnavailable)
		return false
	case "drop_before":
		drop()
	case "slow":
		time.Sleep(time.Duration(f.Ms) * time.Millisecond)
	case "hang_before":
		f.hang(c)
	}
	return true
}

// after does what comes between a call's effect and its answer.
func (f *injection) after(c *call) bool {
	switch f.Kind {
	case "drop_after":
		drop()
	case "hang_after":
		f.hang(c)
	}
	return true
}

// hang holds a call until it is released or its client has gone away.
func (f *injection) hang(c *call) {
	select {
	case <-f.release:
	case <-c.context.Done():
		log.Printf("%s: the client went away while held", c.method)
		drop()
	}
}
