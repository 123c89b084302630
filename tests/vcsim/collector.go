package main

import (
	"bytes"
	"fmt"
	"log"
	"reflect"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

func stack() []byte { return debug.Stack() }

// collector is a property collector: filters, what each was last told, and what has changed since.
type collector struct {
	self     ref
	filters  map[ref]*filter
	order    []ref
	dirty    map[ref]bool
	wake     chan struct{}
	stopped  chan struct{}
	version  int
	previous int
	last     []byte // the update set that led from previous to version, for a client that lost it
	pageRest map[string]*pageState
}

type filter struct {
	self      ref
	spec      types.PropertyFilterSpec
	told      map[ref]map[string]property
	order     []ref
	sources   map[ref]bool
	structure int64
	pending   []ref
	queued    map[ref]bool
	broken    *ref
}

func newCollector(self ref) *collector {
	return &collector{
		self: self, filters: map[ref]*filter{}, dirty: map[ref]bool{}, wake: make(chan struct{}, 1),
		stopped: make(chan struct{}), pageRest: map[string]*pageState{},
	}
}

func (c *collector) managed() mo.Reference {
	return &mo.PropertyCollector{Self: c.self, Filter: c.order}
}

func (c *collector) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *collector) cancel() {
	close(c.stopped)
	c.stopped = make(chan struct{})
}

func (s *session) changed(target ref) {
	for _, c := range s.collectors {
		c.dirty[target] = true
		c.signal()
	}
}

// touch says that an object has changed: it is encoded anew, and whoever watches it is woken.
func (w *world) touch(targets ...ref) {
	for _, target := range targets {
		delete(w.fragments, target)
		for _, s := range w.sessions {
			s.changed(target)
		}
	}
}

// reshape says that something was added to the inventory, moved or removed.
func (w *world) reshape() {
	w.structure++
	for _, s := range w.sessions {
		for self := range s.views {
			s.changed(self)
		}
	}
}

func (c *call) collector() *collector { return c.session.collectors[c.this] }

func createPropertyCollector(c *call) answer {
	created := newCollector(c.session.newRef("PropertyCollector"))
	c.session.collectors[created.self] = created
	return answer{body: &methods.CreatePropertyCollectorBody{
		Res: &types.CreatePropertyCollectorResponse{Returnval: created.self},
	}}
}

func destroyPropertyCollector(c *call) answer {
	owner := c.collector()
	if owner == nil {
		return notFound(c.this)
	}
	owner.cancel()
	delete(c.session.collectors, c.this)
	return answer{body: &methods.DestroyPropertyCollectorBody{Res: &types.DestroyPropertyCollectorResponse{}}}
}

func createFilter(c *call) answer {
	owner, request := c.collector(), c.body.(*types.CreateFilter)
	if owner == nil {
		return notFound(c.this)
	}
	made := &filter{
		self: c.session.newRef("PropertyFilter"), spec: request.Spec, told: map[ref]map[string]property{},
		queued: map[ref]bool{}, structure: -1,
	}
	if t := c.world.traverse(c.session, made.spec); t.gone != nil {
		return notFound(*t.gone)
	}
	if bad := c.world.unknownPath(c.session, made.spec); bad != "" {
		return fault(&types.InvalidProperty{Name: bad})
	}
	owner.filters[made.self] = made
	owner.order = append(append([]ref{}, owner.order...), made.self)
	owner.signal()
	return answer{body: &methods.CreateFilterBody{Res: &types.CreateFilterResponse{Returnval: made.self}}}
}

func destroyPropertyFilter(c *call) answer {
	for _, owner := range c.session.collectors {
		if _, ok := owner.filters[c.this]; ok {
			delete(owner.filters, c.this)
			var order []ref
			for _, self := range owner.order {
				if self != c.this {
					order = append(order, self)
				}
			}
			owner.order = order
			return answer{body: &methods.DestroyPropertyFilterBody{Res: &types.DestroyPropertyFilterResponse{}}}
		}
	}
	return notFound(c.this)
}

func cancelWaitForUpdates(c *call) answer {
	if owner := c.collector(); owner != nil {
		owner.cancel()
	}
	return answer{body: &methods.CancelWaitForUpdatesBody{Res: &types.CancelWaitForUpdatesResponse{}}}
}

// refresh brings a filter's set of objects up to date and queues what its client has not been told.
func (w *world) refresh(s *session, owner *collector, f *filter) {
	first := f.structure < 0
	again := first
	for target := range owner.dirty {
		if f.sources[target] {
			again = true
		}
		if _, member := f.told[target]; member {
			f.queue(target)
		}
	}
	if !again && len(owner.dirty) > 0 {
		for _, start := range f.spec.ObjectSet {
			again = again || owner.dirty[start.Obj]
		}
	}
	if !again {
		return
	}
	t := w.traverse(s, f.spec)
	f.structure, f.sources, f.broken = w.structure, t.sources, t.gone
	for _, target := range t.objects {
		if _, ok := f.told[target]; !ok {
			f.queue(target)
		}
	}
	for target := range f.told {
		if !t.seen[target] {
			f.queue(target)
		}
	}
	f.order = t.objects
}

func (f *filter) queue(target ref) {
	if !f.queued[target] {
		f.queued[target] = true
		f.pending = append(f.pending, target)
	}
}

func (f *filter) member() map[ref]bool {
	out := make(map[ref]bool, len(f.order))
	for _, target := range f.order {
		out[target] = true
	}
	return out
}

// update writes the next change of one object, or nothing if its client knows all.
func (w *world) update(s *session, f *filter, target ref, member bool) []byte {
	var out bytes.Buffer
	kind := "modify"
	told, known := f.told[target]
	value, exists := w.object(s, target)
	if !member || !exists {
		if !known {
			return nil
		}
		delete(f.told, target)
		fmt.Fprintf(&out, `<objectSet><kind>leave</kind>%s</objectSet>`, objTag("obj", target))
		return out.Bytes()
	}
	paths, match := selected(f.spec, target, value)
	if !match {
		return nil
	}
	if !known {
		kind = "enter"
		told = make(map[string]property, len(paths))
		f.told[target] = told
	}
	fmt.Fprintf(&out, `<objectSet><kind>%s</kind>%s`, kind, objTag("obj", target))
	changes := 0
	for _, name := range paths {
		fresh := w.read(s, target, value, name)
		before, was := told[name]
		if (was || fresh.text == nil) && bytes.Equal(before, fresh.text) {
			continue
		}
		if !was && fresh.text == nil {
			continue
		}
		told[name] = fresh.text
		changes++
		fmt.Fprintf(&out, `<changeSet><name>%s</name><op>assign</op>%s</changeSet>`, escape(name), fresh.text)
	}
	if known && changes == 0 {
		return nil
	}
	out.WriteString(`</objectSet>`)
	return out.Bytes()
}

func objTag(tag string, target ref) string {
	return fmt.Sprintf(`<%s type="%s">%s</%s>`, tag, target.Type, escape(target.Value), tag)
}

func escape(text string) string {
	var out bytes.Buffer
	if err := xml.EscapeText(&out, []byte(text)); err != nil {
		log.Panic(err)
	}
	return out.String()
}

// updates collects what all filters have to say, at most limit objects.
func (w *world) updates(s *session, owner *collector, limit int) (text []byte, truncated bool, gone *ref) {
	var out bytes.Buffer
	count := 0
	for _, self := range owner.order {
		w.refresh(s, owner, owner.filters[self])
	}
	owner.dirty = map[ref]bool{}
	for _, self := range owner.order {
		f := owner.filters[self]
		if f.broken != nil {
			return nil, false, f.broken
		}
		if len(f.pending) == 0 {
			continue
		}
		member := f.member()
		var set bytes.Buffer
		for len(f.pending) > 0 && (limit <= 0 || count < limit) {
			target := f.pending[0]
			f.pending = f.pending[1:]
			delete(f.queued, target)
			if change := w.update(s, f, target, member[target]); change != nil {
				set.Write(change)
				count++
			}
		}
		if set.Len() > 0 {
			fmt.Fprintf(&out, `<filterSet>%s%s</filterSet>`, objTag("filter", self), set.Bytes())
		}
		truncated = truncated || len(f.pending) > 0
	}
	return out.Bytes(), truncated, nil
}

func (c *call) waitForUpdates() answer {
	var version string
	limit, patience := 0, time.Duration(-1)
	switch request := c.body.(type) {
	case *types.WaitForUpdatesEx:
		version = request.Version
		if o := request.Options; o != nil {
			limit = int(o.MaxObjectUpdates)
			if o.MaxWaitSeconds != nil {
				patience = time.Duration(*o.MaxWaitSeconds) * time.Second
			}
		}
	case *types.WaitForUpdates:
		version = request.Version
	case *types.CheckForUpdates:
		version, patience = request.Version, 0
	}
	w := c.world
	w.mu.Lock()
	owner := c.collector()
	if owner == nil {
		w.mu.Unlock()
		return notFound(c.this)
	}
	switch {
	case version == "":
		owner.version++
		owner.previous, owner.last = 0, nil
		for _, f := range owner.filters {
			f.told, f.structure, f.pending, f.queued = map[ref]map[string]property{}, -1, nil, map[ref]bool{}
		}
	case owner.last != nil && version == strconv.Itoa(owner.previous):
		last := owner.last
		w.mu.Unlock()
		return answer{raw: last}
	case version != strconv.Itoa(owner.version):
		w.mu.Unlock()
		return fault(&types.InvalidCollectorVersion{})
	}
	stopped := owner.stopped
	w.mu.Unlock()
	var deadline <-chan time.Time
	if patience > 0 {
		timer := time.NewTimer(patience)
		defer timer.Stop()
		deadline = timer.C
	}
	for {
		w.mu.Lock()
		if w.sessions[c.session.user.Key] != c.session {
			w.mu.Unlock()
			c.session = nil
			return *c.allowed()
		}
		text, truncated, gone := w.updates(c.session, owner, limit)
		if gone != nil {
			w.mu.Unlock()
			return notFound(*gone)
		}
		if len(text) > 0 || version == "" {
			owner.previous = owner.version
			owner.version++
			owner.last = []byte(fmt.Sprintf(`<returnval><version>%d</version>%s<truncated>%v</truncated></returnval>`,
				owner.version, text, truncated))
			raw := owner.last
			w.mu.Unlock()
			return answer{raw: raw}
		}
		w.mu.Unlock()
		if patience == 0 {
			return answer{raw: []byte{}}
		}
		select {
		case <-owner.wake:
			time.Sleep(w.gather) // changes that come together are told together
		case <-deadline:
			return answer{raw: []byte{}}
		case <-stopped:
			w.mu.Lock()
			ended := w.sessions[c.session.user.Key] != c.session
			w.mu.Unlock()
			if ended {
				c.session = nil
				return *c.allowed()
			}
			return fault(&types.RequestCanceled{})
		case <-c.context.Done():
			return answer{raw: []byte{}}
		}
	}
}

// pageState is what is left to send of a read that did not fit in one page.
type pageState struct {
	objects [][]byte
	size    int
}

func (p *pageState) next(owner *collector) []byte {
	count := len(p.objects)
	if p.size > 0 && count > p.size {
		count = p.size
	}
	var out bytes.Buffer
	out.WriteString("<returnval>")
	page := p.objects[:count]
	p.objects = p.objects[count:]
	if len(p.objects) > 0 {
		token := uuid.New().String()
		owner.pageRest[token] = p
		fmt.Fprintf(&out, "<token>%s</token>", token)
	}
	for _, text := range page {
		out.Write(text)
	}
	out.WriteString("</returnval>")
	return out.Bytes()
}

func (w *world) unknownPath(s *session, spec types.PropertyFilterSpec) string {
	for _, set := range spec.PropSet {
		kind, ok := moType(set.Type)
		if !ok {
			continue
		}
		for _, name := range set.PathSet {
			if !pathExists(kind, name) {
				return name
			}
		}
	}
	return ""
}

// retrieve reads each object's properties at once. Without a session only the service's own objects answer.
func (c *call) retrieve(specs []types.PropertyFilterSpec) ([][]byte, *answer) {
	w := c.world
	var out [][]byte
	done := map[ref]int{}
	for _, spec := range specs {
		t := w.traverse(c.session, spec)
		if t.gone != nil {
			a := notFound(*t.gone)
			return nil, &a
		}
		if bad := w.unknownPath(c.session, spec); bad != "" {
			a := fault(&types.InvalidProperty{Name: bad})
			return nil, &a
		}
		for _, target := range t.objects {
			value, ok := w.object(c.session, target)
			if !ok {
				continue
			}
			paths, match := selected(spec, target, value)
			if _, before := done[target]; !match || before {
				continue
			}
			done[target] = len(out)
			var text bytes.Buffer
			fmt.Fprintf(&text, `<objects>%s`, objTag("obj", target))
			for _, name := range paths {
				got := w.read(c.session, target, value, name)
				switch {
				case c.session == nil && target.Type != "ServiceInstance":
					fmt.Fprintf(&text, `<missingSet><path>%s</path><fault><fault xsi:type="NotAuthenticated">%s`+
						`<privilegeId>System.View</privilegeId></fault><localizedMessage></localizedMessage></fault></missingSet>`,
						escape(name), objTag("object", target))
				case got.text != nil:
					fmt.Fprintf(&text, `<propSet><name>%s</name>%s</propSet>`, escape(name), got.text)
				}
			}
			text.WriteString(`</objects>`)
			out = append(out, text.Bytes())
		}
	}
	return out, nil
}

func (c *call) anyCollector() *collector {
	if c.session == nil {
		return newCollector(c.this)
	}
	return c.collector()
}

func retrievePropertiesEx(c *call) answer {
	request := c.body.(*types.RetrievePropertiesEx)
	owner := c.anyCollector()
	if owner == nil {
		return notFound(c.this)
	}
	objects, bad := c.retrieve(request.SpecSet)
	if bad != nil {
		return *bad
	}
	size := int(request.Options.MaxObjects)
	if limit := c.world.config.PageSize; limit > 0 && (size == 0 || size > limit) {
		size = limit // a server may send fewer objects than a client allows
	}
	if len(objects) == 0 {
		return answer{raw: []byte{}}
	}
	return answer{raw: (&pageState{objects, size}).next(owner)}
}

func continueRetrieve(c *call) answer {
	owner := c.anyCollector()
	if owner == nil {
		return notFound(c.this)
	}
	token := c.body.(*types.ContinueRetrievePropertiesEx).Token
	rest := owner.pageRest[token]
	if rest == nil {
		return fault(&types.InvalidArgument{InvalidProperty: "token"})
	}
	delete(owner.pageRest, token)
	return answer{raw: rest.next(owner)}
}

func cancelRetrieve(c *call) answer {
	if owner := c.collector(); owner != nil {
		delete(owner.pageRest, c.body.(*types.CancelRetrievePropertiesEx).Token)
	}
	return answer{body: &methods.CancelRetrievePropertiesExBody{Res: &types.CancelRetrievePropertiesExResponse{}}}
}

func retrieveProperties(c *call) answer {
	objects, bad := c.retrieve(c.body.(*types.RetrieveProperties).SpecSet)
	if bad != nil {
		return *bad
	}
	var out bytes.Buffer
	for _, text := range objects {
		text = bytes.TrimSuffix(bytes.TrimPrefix(text, []byte("<objects>")), []byte("</objects>"))
		fmt.Fprintf(&out, "<returnval>%s</returnval>", text)
	}
	return answer{raw: append([]byte{}, out.Bytes()...)}
}

// fetch reads one property: what pyVmomi does for each attribute.
func fetch(c *call) answer {
	name := reflect.ValueOf(c.body).Elem().FieldByName("Prop").String()
	value, ok := c.world.object(c.session, c.this)
	if !ok {
		return notFound(c.this)
	}
	if c.session == nil && c.this.Type != "ServiceInstance" {
		return *(&call{method: "-", this: c.this}).allowed()
	}
	got := c.world.read(c.session, c.this, value, name)
	if !got.known {
		return fault(&types.InvalidProperty{Name: name})
	}
	text := bytes.Replace(got.text, []byte("<val"), []byte("<returnval"), 1)
	if i := bytes.LastIndex(text, []byte("</val>")); i >= 0 {
		text = append(append([]byte{}, text[:i]...), []byte("</returnval>")...)
	}
	if text == nil {
		text = []byte{}
	}
	return answer{raw: text}
}

var moTypes = map[string]reflect.Type{}

func init() {
	for _, object := range []mo.Reference{
		&mo.VirtualMachine{}, &mo.HostSystem{}, &mo.Datastore{}, &mo.Network{}, &mo.DistributedVirtualPortgroup{}, &mo.Task{},
		&mo.ResourcePool{}, &mo.ClusterComputeResource{}, &mo.ComputeResource{}, &mo.Folder{}, &mo.Datacenter{}, &mo.ContainerView{},
		&mo.ListView{}, &mo.TaskManager{}, &mo.VirtualMachineSnapshot{},
	} {
		kind := reflect.TypeOf(object).Elem()
		moTypes[kind.Name()] = kind
	}
}

func moType(name string) (reflect.Type, bool) {
	kind, ok := moTypes[name]
	return kind, ok
}

// pathExists follows the static types; what lies behind an interface is believed.
func pathExists(kind reflect.Type, dotted string) bool {
	for _, name := range splitPath(dotted) {
		for kind.Kind() == reflect.Ptr {
			kind = kind.Elem()
		}
		if kind.Kind() == reflect.Interface {
			return true
		}
		if kind.Kind() != reflect.Struct {
			return false
		}
		field, ok := kind.FieldByName(title(name))
		if !ok {
			return false
		}
		kind = field.Type
	}
	return true
}
