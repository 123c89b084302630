package main

import (
	"bytes"
	"log"
	"path"
	"reflect"
	"strings"

	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vim25/xml"
)

// property is the value of one path of one object, encoded: nil if it is not set. Two reads of an unchanged object
// give the same slice, so that an unchanged property is told by its bytes.
type property []byte

// managed gives the vSphere part of an object, whatever the simulator wraps around it.
func managed(object mo.Reference) reflect.Value {
	if wrapped, ok := object.(interface{ Get() mo.Reference }); ok {
		object = wrapped.Get()
	}
	value := reflect.ValueOf(object).Elem()
	for path.Base(value.Type().PkgPath()) != "mo" {
		if value.Kind() != reflect.Struct || value.NumField() == 0 {
			log.Panicf("%T is no managed object", object)
		}
		value = value.Field(0)
	}
	return value
}

func unset(value reflect.Value) bool {
	switch value.Kind() {
	case reflect.Ptr, reflect.Interface, reflect.Slice, reflect.Map:
		return value.IsNil() || (value.Kind() == reflect.Slice && value.Len() == 0)
	case reflect.String:
		return value.Len() == 0
	case reflect.Struct:
		reference, ok := value.Interface().(ref)
		return ok && reference.Value == ""
	}
	return false
}

// find follows a dotted path; known says whether the type has such a property at all.
func find(value reflect.Value, dotted string) (found interface{}, known bool) {
	names := strings.Split(dotted, ".")
	for i, name := range names {
		for value.Kind() == reflect.Ptr || value.Kind() == reflect.Interface {
			if value.IsNil() {
				return nil, true // the rest of the path cannot be told apart from a misspelt one
			}
			value = value.Elem()
		}
		if value.Kind() != reflect.Struct || name == "" {
			return nil, false
		}
		field := value.FieldByName(strings.ToUpper(name[:1]) + name[1:])
		if !field.IsValid() {
			return nil, false
		}
		if i == len(names)-1 {
			if unset(field) {
				if list, ok := field.Interface().([]ref); ok && len(names) == 1 && name != "rootSnapshot" {
					return &types.ArrayOfManagedObjectReference{ManagedObjectReference: list}, true // lists that are always there
				}
				return nil, true
			}
			return wrap(field), true
		}
		value = field
	}
	return nil, false
}

// wrap turns a slice into the ArrayOf type that the property collector sends.
func wrap(value reflect.Value) interface{} {
	if value.Kind() == reflect.Ptr {
		value = value.Elem()
	}
	if value.Kind() != reflect.Slice {
		return value.Interface()
	}
	name := map[reflect.Kind]string{
		reflect.String: "String", reflect.Uint8: "Byte", reflect.Int16: "Short", reflect.Int32: "Int", reflect.Int64: "Long",
	}[value.Type().Elem().Kind()]
	if name == "" || value.Type().Elem().PkgPath() != "" {
		name = strings.TrimPrefix(value.Type().Elem().Name(), "Base")
	}
	kind, ok := types.TypeFunc()("ArrayOf" + name)
	if !ok {
		log.Panicf("no ArrayOf%s", name)
	}
	array := reflect.New(kind)
	array.Elem().FieldByName(name).Set(value)
	return array.Interface()
}

func encodeValue(value interface{}) property {
	text := marshal(struct {
		XMLName xml.Name      `xml:"f"`
		Val     types.AnyType `xml:"val,typeattr"`
	}{Val: value})
	text = bytes.TrimSuffix(bytes.TrimPrefix(text, []byte("<f>")), []byte("</f>"))
	return property(text)
}

type fragment struct {
	text  property
	known bool
}

// object looks a managed object up, as a session sees it.
func (w *world) object(s *session, target ref) (reflect.Value, bool) {
	if target.Type == "SessionManager" {
		return reflect.ValueOf(w.sessionManager(target, s)).Elem(), true
	}
	if s != nil {
		if v, ok := s.views[target]; ok {
			return reflect.ValueOf(v.managed(w)).Elem(), true
		}
		if c, ok := s.collectors[target]; ok {
			return reflect.ValueOf(c.managed()).Elem(), true
		}
	}
	found := w.registry.Get(target)
	if found == nil {
		return reflect.Value{}, false
	}
	return managed(found), true
}

// read gives one property; what was encoded before and did not change since is not encoded again.
func (w *world) read(s *session, target ref, value reflect.Value, dotted string) fragment {
	cached := w.fragments[target]
	if found, ok := cached[dotted]; ok {
		return found
	}
	var out fragment
	var content interface{}
	content, out.known = find(value, dotted)
	if content != nil {
		out.text = encodeValue(content)
	}
	if _, shared := sessionKinds[target.Type]; !shared {
		if cached == nil {
			cached = map[string]fragment{}
			w.fragments[target] = cached
		}
		cached[dotted] = out
	}
	return out
}

// sessionKinds differ from session to session or change without notice: they are not cached.
var sessionKinds = map[string]bool{
	"SessionManager": true, "ContainerView": true, "ListView": true, "PropertyCollector": true, "ServiceInstance": true,
}

// allPaths lists the top-level properties of a type.
func allPaths(value reflect.Type) []string {
	var out []string
	for i := 0; i < value.NumField(); i++ {
		field := value.Field(i)
		switch {
		case field.Anonymous:
			out = append(out, allPaths(field.Type)...)
		case field.Name != "Self" && field.Tag.Get("mo") != "":
			out = append(out, field.Tag.Get("mo"))
		}
	}
	return out
}

// selected gives the property paths that a filter asks of one object, or nil if it does not ask for this type.
func selected(spec types.PropertyFilterSpec, target ref, value reflect.Value) ([]string, bool) {
	var out []string
	match := false
	seen := map[string]bool{}
	for _, set := range spec.PropSet {
		if set.Type != target.Type && set.Type != value.Type().Name() {
			if field, ok := value.Type().FieldByName(set.Type); !ok || !field.Anonymous {
				continue
			}
		}
		match = true
		paths := set.PathSet
		if set.All != nil && *set.All {
			paths = allPaths(value.Type())
		}
		for _, name := range paths {
			if !seen[name] {
				seen[name] = true
				out = append(out, name)
			}
		}
	}
	return out, match
}

// traversal is what selecting objects found: the objects in order, and those it went through to find them.
type traversal struct {
	world   *world
	session *session
	specs   map[string]*types.TraversalSpec
	objects []ref
	seen    map[ref]bool
	sources map[ref]bool
	gone    *ref
}

func (w *world) traverse(s *session, spec types.PropertyFilterSpec) *traversal {
	t := &traversal{world: w, session: s, specs: map[string]*types.TraversalSpec{}, seen: map[ref]bool{}, sources: map[ref]bool{}}
	for _, start := range spec.ObjectSet {
		value, ok := w.object(s, start.Obj)
		if !ok {
			if spec.ReportMissingObjectsInResults == nil || !*spec.ReportMissingObjectsInResults {
				missing := start.Obj
				t.gone = &missing
			}
			continue
		}
		if start.Skip == nil || !*start.Skip {
			t.add(start.Obj)
		}
		t.follow(start.Obj, value, start.SelectSet, map[string]bool{})
	}
	return t
}

func (t *traversal) add(target ref) {
	if !t.seen[target] {
		t.seen[target] = true
		t.objects = append(t.objects, target)
	}
}

func (t *traversal) follow(from ref, value reflect.Value, set []types.BaseSelectionSpec, active map[string]bool) {
	for _, item := range set {
		if spec, ok := item.(*types.TraversalSpec); ok && spec.Name != "" {
			t.specs[spec.Name] = spec
		}
	}
	for _, item := range set {
		spec, ok := item.(*types.TraversalSpec)
		if !ok {
			spec = t.specs[item.GetSelectionSpec().Name]
		}
		if spec == nil || !isA(value.Type(), from, spec.Type) {
			continue
		}
		step := from.String() + " " + spec.Path
		if active[step] {
			continue // a specification that names itself walks a tree, and a tree ends
		}
		active[step] = true
		t.sources[from] = true
		found, _ := find(value, spec.Path)
		for _, next := range references(found) {
			if spec.Skip == nil || !*spec.Skip {
				t.add(next)
			}
			if inner, ok := t.world.object(t.session, next); ok && len(spec.SelectSet) > 0 {
				t.follow(next, inner, spec.SelectSet, active)
			}
		}
		delete(active, step)
	}
}

func isA(kind reflect.Type, target ref, name string) bool {
	if name == "" || name == target.Type || name == kind.Name() {
		return true
	}
	field, ok := kind.FieldByName(name)
	return ok && field.Anonymous
}

func references(value interface{}) []ref {
	switch v := value.(type) {
	case ref:
		return []ref{v}
	case *types.ArrayOfManagedObjectReference:
		return v.ManagedObjectReference
	}
	return nil
}
