// Command vcsim is a vCenter for tests: govmomi's simulator with what an autoscaler depends on mended, GPUs in its
// hosts, tasks that take time, and faults on demand. It reads its configuration as JSON from its first argument,
// prints one line of JSON when it listens, and ends when its standard input is closed.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"io/ioutil"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// settings are what tests choose; tests/cluster/vcsim.py documents each.
type settings struct {
	Hosts       []hostSpec `json:"hosts"`
	VMs         int        `json:"vms"`
	TaskMs      int        `json:"task_ms"`
	Template    string     `json:"template"`
	Snapshot    string     `json:"snapshot"`
	AsTemplate  bool       `json:"as_template"`
	User        string     `json:"user"`
	Password    string     `json:"password"`
	APIVersion  string     `json:"api_version"`
	PageSize    int        `json:"page_size"`
	CapacityGiB int64      `json:"capacity_gib"`
	DiskGiB     int64      `json:"disk_gib"`
	NoCardFault string     `json:"no_card_fault"`
	CardNames   string     `json:"card_names"`
	AutoIP      bool       `json:"auto_ip"`
	BootMs      int        `json:"boot_ms"`
	Folder      string     `json:"folder"`
	Address     string     `json:"address"`
	Verbose     bool       `json:"verbose"`
}

// world is all that the simulated vCenter knows. mu guards everything in it.
type world struct {
	mu       sync.Mutex
	config   settings
	model    *simulator.Model
	service  *simulator.Service
	registry *simulator.Registry
	gather   time.Duration

	collectorRef, clusterRef, poolRef, vmFolder, mainDatastore ref
	hostRefs, vmOrder                                          []ref

	sessions    map[string]*session
	stockCookie *http.Cookie
	fragments   map[ref]map[string]fragment
	structure   int64
	serial      int
	addresses   int

	chains   int32
	clones   map[int32]*types.VmBeingClonedEvent
	running  map[ref]*running
	names    map[reserved]ref
	making   map[ref]bool
	cards    map[ref][]*card
	failed   map[ref]bool
	used     map[ref]int64
	swap     map[ref]int64
	profiles map[ref]string
	// diskProfiles are the storage policies of each machine's disks, by the disks' keys
	diskProfiles map[ref]map[int32]string
	policies     *policies
	denied       map[string]bool
	// privileges are all that the administrator's role has, read from govmomi's simulator
	privileges []string

	vsanColour, vsanText string
	vsan                 vsanState
	// stockNetworks are the networks of hosts as govmomi's simulator makes them
	stockNetworks map[ref]types.HostNetworkInfo

	// taken is what all machines' files take together
	taken     int64
	freeLimit int64
	calls     map[string]int
	faults    []*injection
	faultID   int
	events    []event
	sequence  int
	news      chan struct{}
	front     *front
}

func newWorld(config settings) *world {
	w := &world{
		config: config, gather: 5 * time.Millisecond, sessions: map[string]*session{}, fragments: map[ref]map[string]fragment{},
		running: map[ref]*running{}, names: map[reserved]ref{}, making: map[ref]bool{}, cards: map[ref][]*card{},
		clones: map[int32]*types.VmBeingClonedEvent{}, failed: map[ref]bool{}, used: map[ref]int64{}, swap: map[ref]int64{}, profiles: map[ref]string{}, diskProfiles: map[ref]map[int32]string{}, stockNetworks: map[ref]types.HostNetworkInfo{},
		denied: map[string]bool{}, vsanColour: "green", freeLimit: -1, calls: map[string]int{}, news: make(chan struct{}), serial: 1000,
	}
	w.policies = &policies{world: w}
	return w
}

// handlers answer instead of govmomi's simulator; one that gives an empty answer leaves the call to it after all.
// waits are handlers that take the lock themselves because they may wait for long.
var handlers map[string]func(*call) answer
var waits map[string]func(*call) answer

func init() {
	waits = map[string]func(*call) answer{
		"WaitForUpdatesEx": (*call).waitForUpdates, "WaitForUpdates": (*call).waitForUpdates, "CheckForUpdates": (*call).waitForUpdates,
	}
	handlers = map[string]func(*call) answer{
		"Login": login, "Logout": logout, "SessionIsActive": sessionIsActive, "TerminateSession": terminateSession,
		"CreateContainerView": createContainerView, "CreateListView": createListView, "ModifyListView": modifyListView,
		"ResetListView": resetListView, "DestroyView": destroyView,
		"CreatePropertyCollector": createPropertyCollector, "DestroyPropertyCollector": destroyPropertyCollector,
		"CreateFilter": createFilter, "DestroyPropertyFilter": destroyPropertyFilter, "CancelWaitForUpdates": cancelWaitForUpdates,
		"RetrievePropertiesEx": retrievePropertiesEx, "ContinueRetrievePropertiesEx": continueRetrieve,
		"CancelRetrievePropertiesEx": cancelRetrieve, "RetrieveProperties": retrieveProperties, "Fetch": fetch,
		"CloneVM_Task": cloneVM, "InstantClone_Task": instantCloneVM, "CreateVM_Task": createVM, "ReconfigVM_Task": reconfigVM,
		"PowerOnVM_Task": powerOnVM, "PowerOffVM_Task": powerOffVM, "ResetVM_Task": resetVM, "SuspendVM_Task": suspendVM,
		"ShutdownGuest": shutdownGuest, "Destroy_Task": destroyEntity, "Rename_Task": renameEntity, "UnregisterVM": unregisterVM,
		"MarkAsTemplate": markAsTemplate, "MarkAsVirtualMachine": markAsVirtualMachine,
		"CreateSnapshot_Task": createSnapshot, "CreateSnapshotEx_Task": createSnapshot, "RemoveSnapshot_Task": removeSnapshot,
		"EnterMaintenanceMode_Task": hostTask("enterMaintenanceMode", "maintenance"),
		"ExitMaintenanceMode_Task":  hostTask("exitMaintenanceMode", "exit_maintenance"),
		"DisconnectHost_Task":       hostTask("disconnectHost", "disconnect"),
		"ReconnectHost_Task":        hostTask("reconnectHost", "reconnect"),
		"HasPrivilegeOnEntities":    hasPrivilegeOnEntities, "HasPrivilegeOnEntity": hasPrivilegeOnEntity,
		"HasUserPrivilegeOnEntities": hasUserPrivilegeOnEntities, "FetchUserPrivilegeOnEntities": fetchUserPrivileges,
		"ReconfigureComputeResource_Task": reconfigureCluster, "FindByUuid": findByUUID, "FindAllByUuid": findByUUID,
		"QueryConfigTarget":   queryConfigTarget,
		"QueryEvents":         queryEvents,
		"PowerOnMultiVM_Task": refuse, "RegisterVM_Task": refuse, "CreateChildVM_Task": refuse,
		"MigrateVM_Task": migrateVM, "RelocateVM_Task": relocateVM, "PlaceVm": placeVM,
	}
}

// touchMentioned marks what a call of govmomi's simulator may have changed: all that it names.
func (w *world) touchMentioned(this ref, body interface{}) {
	w.touch(this)
	var visit func(reflect.Value, int)
	visit = func(value reflect.Value, depth int) {
		if depth > 12 {
			return
		}
		switch value.Kind() {
		case reflect.Ptr, reflect.Interface:
			if !value.IsNil() {
				visit(value.Elem(), depth+1)
			}
		case reflect.Slice:
			for i := 0; i < value.Len(); i++ {
				visit(value.Index(i), depth+1)
			}
		case reflect.Struct:
			if target, ok := value.Interface().(ref); ok {
				w.touch(target)
				return
			}
			for i := 0; i < value.NumField(); i++ {
				if value.Type().Field(i).PkgPath == "" {
					visit(value.Field(i), depth+1)
				}
			}
		}
	}
	visit(reflect.ValueOf(body), 0)
}

func splitPath(dotted string) []string { return strings.Split(dotted, ".") }
func title(name string) string {
	if name == "" {
		return ""
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

func copyDevice(device types.BaseVirtualDevice) types.BaseVirtualDevice {
	return copyOf(reflect.ValueOf(device)).Interface().(types.BaseVirtualDevice)
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: vcsim '{...}'")
	}
	var config settings
	decoder := json.NewDecoder(strings.NewReader(os.Args[1]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&config); err != nil {
		log.Fatalf("cannot read the configuration: %s", err)
	}
	if !config.Verbose {
		log.SetOutput(ioutil.Discard)
	}
	w := newWorld(config)
	if err := w.build(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := w.serveStock(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	identity, authority, err := certificates(config.Address)
	if err != nil {
		log.Fatal(err)
	}
	file := filepath.Join(config.Folder, "ca.pem")
	if err := ioutil.WriteFile(file, authority, 0o644); err != nil {
		log.Fatal(err)
	}
	w.front = &front{world: w, identity: identity, address: config.Address + ":0"}
	if err := w.front.open(); err != nil {
		log.Fatal(err)
	}
	control, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	go func() { log.Print(http.Serve(control, w.control())) }()
	line, _ := json.Marshal(map[string]interface{}{
		"port": w.front.port, "control": control.Addr().(*net.TCPAddr).Port, "ca_file": file,
	})
	fmt.Println(string(line))
	_, _ = io.Copy(ioutil.Discard, os.Stdin)
	w.front.shut()
	w.model.Remove()
}
