package main

import (
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/pbm"
	"github.com/vmware/govmomi/pbm/methods"
	pbmtypes "github.com/vmware/govmomi/pbm/types"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	pbmPath   = "/pbm"
	storage   = "STORAGE"
	required  = "REQUIREMENT"
	vsanRules = "VSAN"
	// the encryption of virtual machines, as govmomi's pbm/simulator has it
	dataService = "com.vmware.storageprofile.dataservice"
	encryption  = "ad5a249d-cbc2-43af-9366-694d7664fa52"
)

// policies is the storage policy service: policies of VSAN rules, and which machine has which.
type policies struct {
	ref
	world *world
	list  []*pbmtypes.PbmCapabilityProfile
}

type policyService struct {
	ref
	content pbmtypes.PbmServiceInstanceContent
}

type placementSolver struct {
	ref
	world *world
}

// capabilities of vSAN that a policy may ask for, each with a value of its type. Where govmomi's own pbm/simulator has
// one (the default policy of a vCenter 6.7), the type is its.
var capabilities = map[string]types.AnyType{
	"hostFailuresToTolerate": int32(0), "stripeWidth": int32(0), "forceProvisioning": false,
	"proportionalCapacity": int32(0), "cacheReservation": int32(0), "iopsLimit": int32(0), "checksumDisabled": false,
	"subFailuresToTolerate": int32(0), "replicaPreference": "", "locality": "",
}

// raids are the values of replicaPreference: PowerCLI and Salt's and Chef's modules write them so.
var raids = []string{"RAID-1 (Mirroring) - Performance", "RAID-5/6 (Erasure Coding) - Capacity"}

// fits says whether a rule asks for something that vSAN, or vCenter's data services, could do.
func fits(rule pbmtypes.PbmCapabilityInstance) bool {
	for _, constraint := range rule.Constraint {
		for _, property := range constraint.PropertyInstance {
			if property.Id != rule.Id.Id {
				return false
			}
			switch rule.Id.Namespace {
			case vsanRules:
				if reflect.TypeOf(property.Value) != reflect.TypeOf(capabilities[rule.Id.Id]) {
					return false
				}
				if rule.Id.Id == "replicaPreference" && !contains(raids, property.Value.(string)) {
					return false
				}
			case dataService:
				if property.Value != encryption || rule.Id.Id != encryption {
					return false
				}
			default:
				return false
			}
		}
	}
	return len(rule.Constraint) > 0
}

// rule is one capability of a policy, as PBM nests it.
func rule(id string, value types.AnyType) pbmtypes.PbmCapabilityInstance {
	return pbmtypes.PbmCapabilityInstance{
		Id: pbmtypes.PbmCapabilityMetadataUniqueId{Namespace: vsanRules, Id: id},
		Constraint: []pbmtypes.PbmCapabilityConstraintInstance{{
			PropertyInstance: []pbmtypes.PbmCapabilityPropertyInstance{{Id: id, Value: value}},
		}},
	}
}

func (w *world) servePolicies() *simulator.Registry {
	registry := simulator.NewRegistry()
	registry.Namespace, registry.Path = pbm.Namespace, pbmPath
	manager := ref{Type: "PbmProfileProfileManager", Value: "ProfileManager"}
	solver := ref{Type: "PbmPlacementSolver", Value: "placementSolver"}
	registry.Put(&policyService{pbm.ServiceInstance, pbmtypes.PbmServiceInstanceContent{
		AboutInfo:                 pbmtypes.PbmAboutInfo{Name: "PBM", Version: "2.0", InstanceUuid: uuid.New().String()},
		SessionManager:            ref{Type: "PbmSessionManager", Value: "SessionManager"},
		CapabilityMetadataManager: ref{Type: "PbmCapabilityMetadataManager", Value: "CapabilityMetadataManager"},
		ProfileManager:            manager,
		ComplianceManager:         ref{Type: "PbmComplianceManager", Value: "complianceManager"},
		PlacementSolver:           solver,
		ReplicationManager:        &ref{Type: "PbmReplicationManager", Value: "ReplicationManager"},
	}})
	w.policies.ref = manager
	registry.Put(w.policies)
	registry.Put(&placementSolver{solver, w})
	w.policies.add("vSAN Default Storage Policy", true, rule("hostFailuresToTolerate", int32(1)), rule("stripeWidth", int32(1)),
		rule("forceProvisioning", false), rule("proportionalCapacity", int32(0)), rule("cacheReservation", int32(0)))
	w.policies.add("RAID-1 two failures", false, rule("hostFailuresToTolerate", int32(2)))
	w.policies.add("No redundancy", false, rule("hostFailuresToTolerate", int32(0)), rule("proportionalCapacity", int32(0)))
	return registry
}

func (p *policies) add(name string, isDefault bool, rules ...pbmtypes.PbmCapabilityInstance) string {
	id := uuid.New().String()
	p.list = append(p.list, &pbmtypes.PbmCapabilityProfile{
		PbmProfile: pbmtypes.PbmProfile{
			ProfileId: pbmtypes.PbmProfileId{UniqueId: id}, Name: name, CreationTime: time.Now(), CreatedBy: "sim",
			LastUpdatedTime: time.Now(), LastUpdatedBy: "sim",
		},
		ProfileCategory: required,
		ResourceType:    pbmtypes.PbmProfileResourceType{ResourceType: storage},
		Constraints: &pbmtypes.PbmCapabilitySubProfileConstraints{
			SubProfiles: []pbmtypes.PbmCapabilitySubProfile{{Name: "Rule-Set 1", Capability: rules}},
		},
		IsDefault: isDefault,
	})
	return id
}

func (p *policies) has(id string) bool {
	for _, policy := range p.list {
		if policy.ProfileId.UniqueId == id {
			return true
		}
	}
	return false
}

// PbmRetrieveServiceContent names the managers.
func (s *policyService) PbmRetrieveServiceContent(*pbmtypes.PbmRetrieveServiceContent) soap.HasFault {
	return &methods.PbmRetrieveServiceContentBody{Res: &pbmtypes.PbmRetrieveServiceContentResponse{Returnval: s.content}}
}

// PbmQueryProfile lists ids of policies.
func (p *policies) PbmQueryProfile(request *pbmtypes.PbmQueryProfile) soap.HasFault {
	body := &methods.PbmQueryProfileBody{Res: &pbmtypes.PbmQueryProfileResponse{}}
	for _, policy := range p.list {
		if request.ResourceType == policy.ResourceType &&
			(request.ProfileCategory == "" || request.ProfileCategory == policy.ProfileCategory) {
			body.Res.Returnval = append(body.Res.Returnval, policy.ProfileId)
		}
	}
	return body
}

// PbmRetrieveContent gives policies with their rules.
func (p *policies) PbmRetrieveContent(request *pbmtypes.PbmRetrieveContent) soap.HasFault {
	body := &methods.PbmRetrieveContentBody{Res: &pbmtypes.PbmRetrieveContentResponse{}}
	for _, id := range request.ProfileIds {
		if !p.has(id.UniqueId) {
			return &methods.PbmRetrieveContentBody{
				Fault_: simulator.Fault("", &types.InvalidArgument{InvalidProperty: "profileId"}),
			}
		}
		for _, policy := range p.list {
			if policy.ProfileId == id {
				body.Res.Returnval = append(body.Res.Returnval, policy)
			}
		}
	}
	return body
}

// asks gives the rules of a policy; false if they are none that this vCenter has.
func asks(constraints pbmtypes.BasePbmCapabilityConstraints) bool {
	parts, ok := constraints.(*pbmtypes.PbmCapabilitySubProfileConstraints)
	if !ok || len(parts.SubProfiles) == 0 {
		return false
	}
	for _, part := range parts.SubProfiles {
		for _, rule := range part.Capability {
			if !fits(rule) {
				return false
			}
		}
	}
	return true
}

// PbmCreate makes a policy; a name can be used once.
func (p *policies) PbmCreate(request *pbmtypes.PbmCreate) soap.HasFault {
	for _, policy := range p.list {
		if policy.Name == request.CreateSpec.Name {
			return &methods.PbmCreateBody{Fault_: simulator.Fault("", &pbmtypes.PbmDuplicateName{Name: policy.Name})}
		}
	}
	// no category means a storage policy, as govmomi's pbm/types has it from the API's documentation
	if (request.CreateSpec.Category != "" && request.CreateSpec.Category != required) || request.CreateSpec.ResourceType.ResourceType != storage ||
		!asks(request.CreateSpec.Constraints) {
		return &methods.PbmCreateBody{Fault_: simulator.Fault("", &types.InvalidArgument{InvalidProperty: "createSpec"})}
	}
	id := p.add(request.CreateSpec.Name, false)
	made := p.list[len(p.list)-1]
	made.Description, made.Constraints = request.CreateSpec.Description, request.CreateSpec.Constraints
	body := &methods.PbmCreateBody{Res: &pbmtypes.PbmCreateResponse{}}
	body.Res.Returnval.UniqueId = id
	return body
}

// PbmDelete removes policies.
func (p *policies) PbmDelete(request *pbmtypes.PbmDelete) soap.HasFault {
	for _, id := range request.ProfileId {
		var kept []*pbmtypes.PbmCapabilityProfile
		for _, policy := range p.list {
			if policy.ProfileId != id {
				kept = append(kept, policy)
			}
		}
		p.list = kept
	}
	return &methods.PbmDeleteBody{Res: &pbmtypes.PbmDeleteResponse{}}
}

// PbmUpdate changes a policy, as a person does in the vSphere client.
func (p *policies) PbmUpdate(request *pbmtypes.PbmUpdate) soap.HasFault {
	for _, policy := range p.list {
		if policy.ProfileId != request.ProfileId {
			continue
		}
		spec := request.UpdateSpec
		if spec.Constraints != nil {
			if !asks(spec.Constraints) {
				break
			}
			policy.Constraints = spec.Constraints
		}
		policy.GenerationId++
		policy.LastUpdatedTime = time.Now()
		return &methods.PbmUpdateBody{Res: &pbmtypes.PbmUpdateResponse{}}
	}
	return &methods.PbmUpdateBody{Fault_: simulator.Fault("", &types.InvalidArgument{InvalidProperty: "profileId"})}
}

// PbmQueryAssociatedProfile gives the policy of a machine's home, or of a disk of it (`vm-42:2000`).
func (p *policies) PbmQueryAssociatedProfile(request *pbmtypes.PbmQueryAssociatedProfile) soap.HasFault {
	body := &methods.PbmQueryAssociatedProfileBody{Res: &pbmtypes.PbmQueryAssociatedProfileResponse{}}
	id := ""
	switch request.Entity.ObjectType {
	case string(pbmtypes.PbmObjectTypeVirtualMachine):
		id = p.world.profiles[ref{Type: "VirtualMachine", Value: request.Entity.Key}]
	case string(pbmtypes.PbmObjectTypeVirtualDiskId):
		parts := strings.SplitN(request.Entity.Key, ":", 2)
		if key, err := strconv.Atoi(parts[len(parts)-1]); err == nil {
			id = p.world.diskProfiles[ref{Type: "VirtualMachine", Value: parts[0]}][int32(key)]
		}
	}
	if id != "" {
		body.Res.Returnval = []pbmtypes.PbmProfileId{{UniqueId: id}}
	}
	return body
}

// PbmCheckRequirements says which datastores can satisfy a policy: the vSAN one.
func (s *placementSolver) PbmCheckRequirements(*pbmtypes.PbmCheckRequirements) soap.HasFault {
	at := s.world.mainDatastore
	return &methods.PbmCheckRequirementsBody{Res: &pbmtypes.PbmCheckRequirementsResponse{
		Returnval: []pbmtypes.PbmPlacementCompatibilityResult{{
			Hub: pbmtypes.PbmPlacementHub{HubType: at.Type, HubId: at.Value},
		}},
	}}
}
