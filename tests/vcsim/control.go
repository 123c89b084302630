package main

import (
	"encoding/json"
	"fmt"
	"io/ioutil"
	"log"
	"net/http"
	"strconv"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

var quiet = log.New(ioutil.Discard, "", 0)

// event is something that a test can wait for.
type event struct {
	Sequence     int               `json:"seq"`
	Time         float64           `json:"time"`
	Kind         string            `json:"kind"`
	VM           string            `json:"vm,omitempty"`
	Ref          string            `json:"ref,omitempty"`
	Host         string            `json:"host,omitempty"`
	Method       string            `json:"method,omitempty"`
	Fault        int               `json:"fault,omitempty"`
	Text         string            `json:"text,omitempty"`
	InstanceUUID string            `json:"instanceUuid,omitempty"`
	ExtraConfig  map[string]string `json:"extraConfig,omitempty"`
}

func (w *world) event(e event) {
	w.sequence++
	e.Sequence = w.sequence
	e.Time = float64(time.Now().UnixNano()) / 1e9
	w.events = append(w.events, e)
	close(w.news)
	w.news = make(chan struct{})
}

type deviceView struct {
	Kind     string `json:"kind"`
	Key      int32  `json:"key,omitempty"` // of a disk
	Label    string `json:"label"`
	Assigned string `json:"assigned,omitempty"`
	ID       string `json:"id,omitempty"`
	Profile  string `json:"profile,omitempty"`
	Network  string `json:"network,omitempty"`
	Bytes    int64  `json:"bytes,omitempty"`
	Linked   bool   `json:"linked,omitempty"`
	Allowed  []int  `json:"allowed,omitempty"`
}

type machineView struct {
	Name         string            `json:"name"`
	Ref          string            `json:"ref"`
	Power        string            `json:"power"`
	Connection   string            `json:"connection"`
	Host         string            `json:"host"`
	Pool         string            `json:"pool"`
	Folder       string            `json:"folder"`
	InstanceUUID string            `json:"instanceUuid"`
	Annotation   string            `json:"annotation"`
	CPUs         int32             `json:"cpus"`
	MemoryMB     int32             `json:"memoryMB"`
	Locked       bool              `json:"memoryLocked"`
	Firmware     string            `json:"firmware"`
	Template     bool              `json:"template"`
	Making       bool              `json:"making"`
	Profile      string            `json:"profile"`
	IP           string            `json:"ip"`
	Cards        []string          `json:"cards"`
	ExtraConfig  map[string]string `json:"extraConfig"`
	Devices      []deviceView      `json:"devices"`
	Labels       []string          `json:"labels"`
	Created      float64           `json:"created"`
}

func (w *world) describe(machine *simulator.VirtualMachine) machineView {
	out := machineView{
		Name: machine.Name, Ref: machine.Self.Value, Power: string(machine.Runtime.PowerState),
		Connection: string(machine.Runtime.ConnectionState), Host: w.host(*machine.Runtime.Host).Name,
		Profile: w.profiles[machine.Self], IP: machine.Guest.IpAddress, Making: w.making[machine.Self],
		Folder: machine.Parent.Value, ExtraConfig: map[string]string{}, Cards: []string{}, Devices: []deviceView{},
	}
	if machine.ResourcePool != nil {
		out.Pool = w.pool(*machine.ResourcePool).Name
	}
	for _, c := range w.cards[*machine.Runtime.Host] {
		if c.holder == machine.Self {
			out.Cards = append(out.Cards, c.id)
		}
	}
	config := machine.Config
	if config == nil {
		return out
	}
	out.InstanceUUID, out.Annotation, out.Firmware = config.InstanceUuid, config.Annotation, config.Firmware
	out.CPUs, out.MemoryMB, out.Template = config.Hardware.NumCPU, config.Hardware.MemoryMB, config.Template
	out.Locked = config.MemoryReservationLockedToMax != nil && *config.MemoryReservationLockedToMax
	if config.CreateDate != nil {
		out.Created = float64(config.CreateDate.UnixNano()) / 1e9
	}
	for _, option := range config.ExtraConfig {
		out.ExtraConfig[option.GetOptionValue().Key] = fmt.Sprint(option.GetOptionValue().Value)
	}
	for _, device := range config.Hardware.Device {
		base := device.GetVirtualDevice()
		v := deviceView{}
		if base.DeviceInfo != nil {
			v.Label = base.DeviceInfo.GetDescription().Label
			out.Labels = append(out.Labels, v.Label)
		}
		switch d := device.(type) {
		case *types.VirtualPCIPassthrough:
			switch backing := d.Backing.(type) {
			case *types.VirtualPCIPassthroughDynamicBackingInfo:
				v.Kind, v.Assigned = "dynamic", backing.AssignedId
				for _, item := range backing.AllowedDevice {
					v.Allowed = append(v.Allowed, int(item.DeviceId&0xffff))
				}
			case *types.VirtualPCIPassthroughDeviceBackingInfo:
				v.Kind, v.ID = "static", backing.Id
			case *types.VirtualPCIPassthroughVmiopBackingInfo:
				v.Kind, v.Profile = "vgpu", backing.Vgpu
			}
		case types.BaseVirtualEthernetCard:
			v.Kind = "network"
			if network := w.networkOf(base.Backing); network != nil {
				v.Network = w.nameOf(*network)
			}
		case *types.VirtualDisk:
			v.Kind, v.Key, v.Bytes = "disk", d.Key, d.CapacityInBytes
			v.Profile = w.diskProfiles[machine.Self][d.Key]
			if backing, ok := d.Backing.(*types.VirtualDiskFlatVer2BackingInfo); ok {
				v.Linked = backing.Parent != nil
			}
		default:
			continue
		}
		out.Devices = append(out.Devices, v)
	}
	return out
}

func (w *world) machineNamed(name string) *simulator.VirtualMachine {
	for _, machine := range w.vms() {
		if machine.Name == name || machine.Self.Value == name {
			return machine
		}
	}
	return nil
}

// order is the body of a control request: which fields matter depends on the path.
type order struct {
	Name       string   `json:"name"`
	State      string   `json:"state"`
	Address    string   `json:"address"`
	HostName   string   `json:"host_name"`
	Privileges []string `json:"privileges"`
	FreeGiB    *float64 `json:"free_gib"`
	Colour     string   `json:"colour"`
	Text       string   `json:"text"`
	TaskMs     *int     `json:"task_ms"`
	PageSize   *int     `json:"page_size"`
	CardNames  string   `json:"card_names"`
	Hardware   hardware `json:"hardware"`
	Nics       []nic    `json:"nics"`
	DownMs     int      `json:"down_ms"`
	Finish     bool     `json:"finish"`
	ID         int      `json:"id"`

	Vsan    vsanState   `json:"vsan"`
	Network hostNetwork `json:"network"`
}

type action func(*order) (interface{}, error)

// control is the plain HTTP interface on loopback by which tests steer the simulator.
func (w *world) control() http.Handler {
	mux := http.NewServeMux()
	w.orders(mux)
	mux.HandleFunc("/events", func(writer http.ResponseWriter, request *http.Request) {
		after, _ := strconv.Atoi(request.FormValue("after"))
		seconds, _ := strconv.ParseFloat(request.FormValue("wait"), 64)
		deadline := time.After(time.Duration(seconds * float64(time.Second)))
		for {
			w.mu.Lock()
			found := []event{}
			for _, e := range w.events {
				if e.Sequence > after {
					found = append(found, e)
				}
			}
			news := w.news
			w.mu.Unlock()
			if len(found) > 0 {
				reply(writer, found, nil)
				return
			}
			select {
			case <-news:
			case <-deadline:
				reply(writer, found, nil)
				return
			case <-request.Context().Done():
				return
			}
		}
	})
	mux.HandleFunc("/fault", func(writer http.ResponseWriter, request *http.Request) {
		var f injection
		if err := json.NewDecoder(request.Body).Decode(&f); err != nil {
			reply(writer, nil, err)
			return
		}
		w.mu.Lock()
		err := w.arm(&f)
		w.mu.Unlock()
		reply(writer, map[string]int{"id": f.ID}, err)
	})
	mux.HandleFunc("/restart", func(writer http.ResponseWriter, request *http.Request) {
		var o order
		if err := json.NewDecoder(request.Body).Decode(&o); err != nil {
			reply(writer, nil, err)
			return
		}
		w.front.shut()
		w.mu.Lock()
		w.endSessions()
		w.loseTasks(o.Finish)
		w.mu.Unlock()
		time.Sleep(time.Duration(o.DownMs) * time.Millisecond)
		reply(writer, map[string]bool{}, w.front.open())
	})
	return mux
}

func reply(writer http.ResponseWriter, value interface{}, err error) {
	writer.Header().Set("Content-Type", "application/json")
	if err != nil {
		writer.WriteHeader(http.StatusBadRequest)
		value = map[string]string{"error": err.Error()}
	}
	if err := json.NewEncoder(writer).Encode(value); err != nil {
		log.Print(err)
	}
}

func (w *world) orders(mux *http.ServeMux) {
	done := map[string]bool{}
	handle := func(path string, act action) {
		mux.HandleFunc(path, func(writer http.ResponseWriter, request *http.Request) {
			var o order
			if request.Method == http.MethodPost {
				if err := json.NewDecoder(request.Body).Decode(&o); err != nil {
					reply(writer, nil, err)
					return
				}
			}
			w.mu.Lock()
			value, err := act(&o)
			var text []byte
			if err == nil {
				text, err = json.Marshal(value)
			}
			w.mu.Unlock()
			reply(writer, json.RawMessage(text), err)
		})
	}
	handle("/vms", func(*order) (interface{}, error) {
		out := []machineView{}
		for _, machine := range w.vms() {
			out = append(out, w.describe(machine))
		}
		return out, nil
	})
	handle("/tasks", func(*order) (interface{}, error) { return map[string]int{"running": len(w.running)}, nil })
	handle("/calls", func(*order) (interface{}, error) { return w.calls, nil })
	handle("/reset_calls", func(*order) (interface{}, error) {
		w.calls = map[string]int{}
		return done, nil
	})
	handle("/faults", func(*order) (interface{}, error) {
		out := w.faults
		if out == nil {
			out = []*injection{}
		}
		return out, nil
	})
	handle("/clear_faults", func(*order) (interface{}, error) {
		for _, f := range w.faults {
			f.free()
		}
		w.faults = nil
		return done, nil
	})
	handle("/release", func(o *order) (interface{}, error) {
		for _, f := range w.faults {
			if f.ID == o.ID {
				f.free()
				return done, nil
			}
		}
		return nil, fmt.Errorf("no fault %d", o.ID)
	})
	handle("/end_sessions", func(*order) (interface{}, error) {
		w.endSessions()
		return done, nil
	})
	handle("/host", func(o *order) (interface{}, error) {
		host := w.hostNamed(o.Name)
		if host == nil {
			return nil, fmt.Errorf("no host %q", o.Name)
		}
		return done, w.setHost(host, o.State)
	})
	handle("/guest", func(o *order) (interface{}, error) {
		machine := w.machineNamed(o.Name)
		if machine == nil {
			return nil, fmt.Errorf("no machine %q", o.Name)
		}
		w.setGuest(machine, o.Address, o.HostName)
		w.setNics(machine, o.Nics)
		return done, nil
	})
	handle("/vm", func(o *order) (interface{}, error) {
		machine := w.machineNamed(o.Name)
		if machine == nil {
			return nil, fmt.Errorf("no machine %q", o.Name)
		}
		var problem types.BaseMethodFault
		switch o.State {
		case "power_on":
			problem = w.powerOn(machine)
		case "power_off":
			problem = w.powerOff(machine)
		case "destroy":
			w.event(event{Kind: "destroy", VM: machine.Name, Ref: machine.Self.Value})
			w.unregister(machine)
		case "loosen", "encrypt":
			config := copyConfig(machine.Config)
			if o.State == "loosen" {
				config.MemoryReservationLockedToMax = types.NewBool(false)
			} else {
				config.KeyId = &types.CryptoKeyId{KeyId: "k"}
			}
			machine.Config = config
			w.modified(machine)
		default:
			return nil, fmt.Errorf("a machine can be told power_on, power_off, destroy, loosen or encrypt, not %q", o.State)
		}
		if problem != nil {
			return nil, fmt.Errorf("%s", message(problem))
		}
		return done, nil
	})
	handle("/template", func(o *order) (interface{}, error) { return done, w.dress(o.Hardware) })
	handle("/vsan", func(o *order) (interface{}, error) {
		w.vsan = o.Vsan
		return done, nil
	})
	handle("/network", func(o *order) (interface{}, error) {
		for _, self := range w.hostRefs {
			if host := w.host(self); host.Name == o.Name {
				w.wire(host, o.Network)
				return done, nil
			}
		}
		return nil, fmt.Errorf("there is no host %q", o.Name)
	})
	handle("/deny", func(o *order) (interface{}, error) {
		w.denied = map[string]bool{}
		for _, privilege := range o.Privileges {
			w.denied[privilege] = true
		}
		return done, nil
	})
	handle("/set", func(o *order) (interface{}, error) {
		if o.TaskMs != nil {
			w.config.TaskMs = *o.TaskMs
		}
		if o.PageSize != nil {
			w.config.PageSize = *o.PageSize
		}
		if o.CardNames != "" {
			w.config.CardNames = o.CardNames
			for _, self := range w.hostRefs {
				w.showBindings(self)
			}
		}
		if o.FreeGiB != nil {
			w.freeLimit = int64(*o.FreeGiB * float64(gib))
			w.accountSpace()
		}
		if o.Colour != "" {
			w.vsanColour, w.vsanText = o.Colour, o.Text
		}
		return done, nil
	})
}

func (w *world) nameOf(target ref) string {
	found := w.registry.Get(target)
	if found == nil {
		return ""
	}
	if value, _ := find(managed(found), "name"); value != nil {
		return fmt.Sprint(value)
	}
	return ""
}
