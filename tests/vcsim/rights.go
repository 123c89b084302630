package main

import (
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/types"
)

// needs are the privileges that vCenter asks for before it carries out a call.
var needs = map[string][]string{
	"CloneVM_Task": {
		"VirtualMachine.Provisioning.Clone", "VirtualMachine.Inventory.CreateFromExisting", "Resource.AssignVMToPool",
		"Datastore.AllocateSpace", "Network.Assign",
	},
	"InstantClone_Task":               {"VirtualMachine.Provisioning.Clone", "VirtualMachine.Inventory.CreateFromExisting", "Resource.AssignVMToPool"},
	"PowerOnVM_Task":                  {"VirtualMachine.Interact.PowerOn"},
	"PowerOffVM_Task":                 {"VirtualMachine.Interact.PowerOff"},
	"ResetVM_Task":                    {"VirtualMachine.Interact.Reset"},
	"Destroy_Task":                    {"VirtualMachine.Inventory.Delete"},
	"Rename_Task":                     {"VirtualMachine.Config.Rename"},
	"CreateSnapshot_Task":             {"VirtualMachine.State.CreateSnapshot"},
	"ReconfigureComputeResource_Task": {"Host.Inventory.EditCluster"},
	"AddCustomFieldDef":               {"Global.ManageCustomFields"},
	"SetField":                        {"Global.SetCustomField"},
	"PbmQueryProfile":                 {"StorageProfile.View"},
	"PbmRetrieveContent":              {"StorageProfile.View"},
	"PbmCreate":                       {"StorageProfile.Update"},
	"PbmUpdate":                       {"StorageProfile.Update"},
	"SessionIsActive":                 {"Sessions.ValidateSession"},
}

// permitted refuses a call, with NoPermission, for a privilege that was taken away.
func (c *call) permitted() *answer {
	wanted := needs[c.method]
	switch request := c.body.(type) {
	case *types.ReconfigVM_Task:
		wanted = configNeeds(&request.Spec)
	case *types.CloneVM_Task:
		if request.Spec.Config != nil {
			wanted = append(append([]string{}, wanted...), configNeeds(request.Spec.Config)...)
		}
	}
	for _, privilege := range wanted {
		if c.world.denied[privilege] {
			a := faultText("Permission to perform this operation was denied.",
				&types.NoPermission{Object: c.this, PrivilegeId: privilege})
			return &a
		}
	}
	return nil
}

func configNeeds(spec *types.VirtualMachineConfigSpec) []string {
	var out []string
	for _, item := range []struct {
		asked     bool
		privilege string
	}{
		{spec.Annotation != "", "VirtualMachine.Config.Annotation"},
		{spec.NumCPUs != 0, "VirtualMachine.Config.CPUCount"},
		{spec.MemoryMB != 0, "VirtualMachine.Config.Memory"},
		{spec.MemoryReservationLockedToMax != nil || spec.MemoryAllocation != nil, "VirtualMachine.Config.Resource"},
		{len(spec.ExtraConfig) > 0, "VirtualMachine.Config.AdvancedConfig"},
		{spec.Name != "", "VirtualMachine.Config.Rename"},
		{spec.Flags != nil || spec.BootOptions != nil, "VirtualMachine.Config.Settings"},
	} {
		if item.asked {
			out = append(out, item.privilege)
		}
	}
	for _, change := range spec.DeviceChange {
		item := change.GetVirtualDeviceConfigSpec()
		switch item.Device.(type) {
		case *types.VirtualDisk:
			if item.Operation == types.VirtualDeviceConfigSpecOperationAdd {
				out = append(out, "VirtualMachine.Config.AddNewDisk")
			} else {
				out = append(out, "VirtualMachine.Config.DiskExtend")
			}
		default:
			if item.Operation == types.VirtualDeviceConfigSpecOperationEdit {
				out = append(out, "VirtualMachine.Config.EditDevice")
			} else {
				out = append(out, "VirtualMachine.Config.AddRemoveDevice")
			}
		}
	}
	return out
}

func (w *world) availability(entities []ref, privileges []string) []types.EntityPrivilege {
	var out []types.EntityPrivilege
	for _, entity := range entities {
		item := types.EntityPrivilege{Entity: entity}
		for _, privilege := range privileges {
			item.PrivAvailability = append(item.PrivAvailability, types.PrivilegeAvailability{
				PrivId: privilege, IsGranted: !w.denied[privilege],
			})
		}
		out = append(out, item)
	}
	return out
}

func hasPrivilegeOnEntities(c *call) answer {
	request := c.body.(*types.HasPrivilegeOnEntities)
	return answer{body: &methods.HasPrivilegeOnEntitiesBody{Res: &types.HasPrivilegeOnEntitiesResponse{
		Returnval: c.world.availability(request.Entity, request.PrivId),
	}}}
}

func hasUserPrivilegeOnEntities(c *call) answer {
	request := c.body.(*types.HasUserPrivilegeOnEntities)
	return answer{body: &methods.HasUserPrivilegeOnEntitiesBody{Res: &types.HasUserPrivilegeOnEntitiesResponse{
		Returnval: c.world.availability(request.Entities, request.PrivId),
	}}}
}

func hasPrivilegeOnEntity(c *call) answer {
	body := &methods.HasPrivilegeOnEntityBody{Res: &types.HasPrivilegeOnEntityResponse{}}
	for _, privilege := range c.body.(*types.HasPrivilegeOnEntity).PrivId {
		body.Res.Returnval = append(body.Res.Returnval, !c.world.denied[privilege])
	}
	return answer{body: body}
}

// fetchUserPrivileges lists what the user may do: all that any call here needs, less what was taken away.
func fetchUserPrivileges(c *call) answer {
	request := c.body.(*types.FetchUserPrivilegeOnEntities)
	body := &methods.FetchUserPrivilegeOnEntitiesBody{Res: &types.FetchUserPrivilegeOnEntitiesResponse{}}
	for _, entity := range request.Entities {
		item := types.UserPrivilegeResult{Entity: entity}
		for _, privilege := range c.world.privileges {
			if !c.world.denied[privilege] {
				item.Privileges = append(item.Privileges, privilege)
			}
		}
		body.Res.Returnval = append(body.Res.Returnval, item)
	}
	return answer{body: body}
}
