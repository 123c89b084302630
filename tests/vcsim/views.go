package main

import (
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// view is a ContainerView (list computed when the inventory changed) or a ListView (list given).
type view struct {
	self      ref
	container ref
	kinds     []string
	recursive bool
	list      []ref
	structure int64
}

func (v *view) managed(w *world) mo.Reference {
	if v.self.Type == "ListView" {
		return &mo.ListView{ManagedObjectView: mo.ManagedObjectView{Self: v.self, View: v.current(w)}}
	}
	return &mo.ContainerView{
		ManagedObjectView: mo.ManagedObjectView{Self: v.self, View: v.current(w)},
		Container:         v.container, Type: v.kinds, Recursive: v.recursive,
	}
}

func (v *view) current(w *world) []ref {
	if v.self.Type == "ListView" || v.structure == w.structure {
		return v.list
	}
	v.structure = w.structure
	v.list = nil
	seen := map[ref]bool{}
	var walk func(ref)
	walk = func(parent ref) {
		for _, child := range w.children(parent) {
			if seen[child] || w.registry.Get(child) == nil {
				continue
			}
			seen[child] = true
			if v.includes(w, child) {
				v.list = append(v.list, child)
			}
			if v.recursive {
				walk(child)
			}
		}
	}
	walk(v.container)
	return v.list
}

func (v *view) includes(w *world, target ref) bool {
	if len(v.kinds) == 0 {
		return true
	}
	kind := managed(w.registry.Get(target)).Type()
	for _, name := range v.kinds {
		if isA(kind, target, name) {
			return true
		}
	}
	return false
}

// children are what vCenter counts as inside an entity.
func (w *world) children(parent ref) []ref {
	found := w.registry.Get(parent)
	if found == nil {
		return nil
	}
	switch e := managed(found).Addr().Interface().(type) {
	case *mo.Datacenter:
		return []ref{e.VmFolder, e.HostFolder, e.DatastoreFolder, e.NetworkFolder}
	case *mo.Folder:
		return e.ChildEntity
	case *mo.StoragePod:
		return e.ChildEntity
	case *mo.ComputeResource:
		return append(append([]ref{}, e.Host...), *e.ResourcePool)
	case *mo.ClusterComputeResource:
		return append(append([]ref{}, e.Host...), *e.ResourcePool)
	case *mo.ResourcePool:
		return append(append([]ref{}, e.ResourcePool...), e.Vm...)
	case *mo.VirtualApp:
		return append(append([]ref{}, e.ResourcePool.ResourcePool...), e.Vm...)
	case *mo.HostSystem:
		return e.Vm
	}
	return nil
}

func createContainerView(c *call) answer {
	request := c.body.(*types.CreateContainerView)
	if c.world.registry.Get(request.Container) == nil {
		return notFound(request.Container)
	}
	v := &view{
		self: c.session.newRef("ContainerView"), container: request.Container,
		kinds: request.Type, recursive: request.Recursive, structure: -1,
	}
	c.session.views[v.self] = v
	return answer{body: &methods.CreateContainerViewBody{Res: &types.CreateContainerViewResponse{Returnval: v.self}}}
}

func createListView(c *call) answer {
	v := &view{self: c.session.newRef("ListView")}
	if missing := v.add(c, c.body.(*types.CreateListView).Obj); missing != nil {
		return notFound(*missing)
	}
	c.session.views[v.self] = v
	return answer{body: &methods.CreateListViewBody{Res: &types.CreateListViewResponse{Returnval: v.self}}}
}

func (v *view) add(c *call, objects []ref) *ref {
	for i, target := range objects {
		if c.world.registry.Get(target) == nil {
			return &objects[i]
		}
		if simulator.FindReference(v.list, target) == nil {
			v.list = append(v.list, target)
		}
	}
	return nil
}

// modifyListView leaves out what does not exist and names it, as vCenter does.
func modifyListView(c *call) answer {
	request := c.body.(*types.ModifyListView)
	v := c.session.views[request.This]
	if v == nil {
		return notFound(request.This)
	}
	list := append([]ref{}, v.list...)
	for _, target := range request.Remove {
		simulator.RemoveReference(&list, target)
	}
	v.list = list
	response := &types.ModifyListViewResponse{}
	for _, target := range request.Add {
		if missing := v.add(c, []ref{target}); missing != nil {
			response.Returnval = append(response.Returnval, *missing)
		}
	}
	c.session.changed(v.self)
	return answer{body: &methods.ModifyListViewBody{Res: response}}
}

func resetListView(c *call) answer {
	request := c.body.(*types.ResetListView)
	v := c.session.views[request.This]
	if v == nil {
		return notFound(request.This)
	}
	v.list = nil
	response := &types.ResetListViewResponse{}
	for _, target := range request.Obj {
		if missing := v.add(c, []ref{target}); missing != nil {
			response.Returnval = append(response.Returnval, *missing)
		}
	}
	c.session.changed(v.self)
	return answer{body: &methods.ResetListViewBody{Res: response}}
}

func destroyView(c *call) answer {
	if _, ok := c.session.views[c.this]; !ok {
		return notFound(c.this)
	}
	delete(c.session.views, c.this)
	c.session.changed(c.this)
	return answer{body: &methods.DestroyViewBody{Res: &types.DestroyViewResponse{}}}
}
