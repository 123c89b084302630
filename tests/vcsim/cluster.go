package main

import (
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// reconfigureCluster lets govmomi's simulator do the work (rules, groups, overrides) at the end of a task of ours.
func reconfigureCluster(c *call) answer {
	w, request := c.world, c.body.(*types.ReconfigureComputeResource_Task)
	if request.This != w.clusterRef {
		return answer{}
	}
	task := c.start(request.This, work{name: "reconfigureCluster", finish: func() (types.AnyType, types.BaseMethodFault) {
		if spec, ok := request.Spec.(*types.ClusterConfigSpecEx); ok {
			for _, override := range spec.DasVmConfigSpec {
				if override.Info != nil && w.vm(override.Info.Key) == nil {
					return nil, &types.ManagedObjectNotFound{Obj: override.Info.Key}
				}
			}
		}
		problem := w.stockTask(w.cluster().ReconfigureComputeResourceTask(request).(*methods.ReconfigureComputeResource_TaskBody).Res.Returnval)
		w.touch(request.This)
		return nil, problem
	}})
	return answer{body: &methods.ReconfigureComputeResource_TaskBody{
		Res: &types.ReconfigureComputeResource_TaskResponse{Returnval: task},
	}}
}

// stockTask gives the error of a task of govmomi's simulator, which is over when it is returned, and removes it.
func (w *world) stockTask(self ref) types.BaseMethodFault {
	task := w.registry.Get(self).(*simulator.Task)
	w.registry.Remove(self)
	if task.Info.Error != nil {
		return task.Info.Error.Fault
	}
	return nil
}

// findByUUID looks machines up, and passes over those that have no configuration yet.
func findByUUID(c *call) answer {
	var found []ref
	match := func(id string, machines bool, instance *bool) {
		if !machines {
			for _, self := range c.world.hostRefs {
				if strings.EqualFold(c.world.host(self).Hardware.SystemInfo.Uuid, id) {
					found = append(found, self)
				}
			}
			return
		}
		for _, machine := range c.world.vms() {
			if machine.Config == nil {
				continue
			}
			own := machine.Config.Uuid
			if instance != nil && *instance {
				own = machine.Config.InstanceUuid
			}
			if strings.EqualFold(own, id) {
				found = append(found, machine.Self)
			}
		}
	}
	if request, ok := c.body.(*types.FindAllByUuid); ok {
		match(request.Uuid, request.VmSearch, request.InstanceUuid)
		return answer{body: &methods.FindAllByUuidBody{Res: &types.FindAllByUuidResponse{Returnval: found}}}
	}
	request := c.body.(*types.FindByUuid)
	match(request.Uuid, request.VmSearch, request.InstanceUuid)
	body := &methods.FindByUuidBody{Res: &types.FindByUuidResponse{}}
	if len(found) > 0 {
		body.Res.Returnval = &found[0]
	}
	return answer{body: body}
}

// migrateVM and relocateVM move a machine to another host; one that runs with a card cannot be moved.
func migrateVM(c *call) answer {
	return answer{body: &methods.MigrateVM_TaskBody{Res: &types.MigrateVM_TaskResponse{
		Returnval: c.moveTask("migrate", c.body.(*types.MigrateVM_Task).Host),
	}}}
}

func relocateVM(c *call) answer {
	return answer{body: &methods.RelocateVM_TaskBody{Res: &types.RelocateVM_TaskResponse{
		Returnval: c.moveTask("relocate", c.body.(*types.RelocateVM_Task).Spec.Host),
	}}}
}

func (c *call) moveTask(name string, to *ref) ref {
	w, self := c.world, c.this
	return c.start(self, work{name: name, finish: func() (types.AnyType, types.BaseMethodFault) {
		machine := w.vm(self)
		if machine == nil {
			return nil, &types.ManagedObjectNotFound{Obj: self}
		}
		if problem := w.usable(machine, false); problem != nil {
			return nil, problem
		}
		if to == nil || *to == *machine.Runtime.Host {
			return nil, nil
		}
		target := w.host(*to)
		if target == nil {
			return nil, &types.ManagedObjectNotFound{Obj: *to}
		}
		if problem := w.reachable(target); problem != nil {
			return nil, problem
		}
		if machine.Runtime.PowerState == types.VirtualMachinePowerStatePoweredOn && len(cardsOf(machine.Config)) > 0 {
			return nil, &types.MigrationFeatureNotSupported{}
		}
		w.move(machine, *to)
		return nil, nil
	}})
}

// placeVM recommends, for a clone, the first reachable host of those given or of the cluster.
func placeVM(c *call) answer {
	w, spec := c.world, c.body.(*types.PlaceVm).PlacementSpec
	hosts := spec.Hosts
	if len(hosts) == 0 {
		hosts = w.hostRefs
	}
	body := &methods.PlaceVmBody{Res: &types.PlaceVmResponse{}}
	for i := range hosts {
		if host := w.host(hosts[i]); host == nil || w.reachable(host) != nil {
			continue
		}
		pool, store := w.poolRef, w.mainDatastore
		body.Res.Returnval.Recommendations = append(body.Res.Returnval.Recommendations, types.ClusterRecommendation{
			Key: "1", Type: "V1", Time: now(), Rating: 1, Reason: string(types.RecommendationReasonCodeXvmotionPlacement),
			ReasonText: "placement", Target: &w.clusterRef,
			Action: []types.BaseClusterAction{&types.PlacementAction{
				Vm: spec.Vm, TargetHost: &hosts[i],
				RelocateSpec: &types.VirtualMachineRelocateSpec{Host: &hosts[i], Pool: &pool, Datastore: &store},
			}},
		})
		break
	}
	return answer{body: body}
}
