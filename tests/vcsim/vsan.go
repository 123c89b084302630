package main

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
	"github.com/vmware/govmomi/vsan/methods"
	vsantypes "github.com/vmware/govmomi/vsan/types"
)

const vsanPath = "/vsanHealth"

// vsanState is what vSAN tells of itself, beside its colour; tests/cluster/vcsim.py documents each field.
type vsanState struct {
	Groups []struct {
		ID     string `json:"id"`
		Name   string `json:"name"`
		Health string `json:"health"`
		Tests  []struct {
			Name   string `json:"name"`
			Health string `json:"health"`
		} `json:"tests"`
	} `json:"groups"`
	Disks []struct {
		Host   string `json:"host"`
		Name   string `json:"name"`
		Health string `json:"health"`
	} `json:"disks"`
	Objects int64 `json:"objects"`
	Bytes   int64 `json:"bytes"`
	ETA     int64 `json:"eta"`
	Yellow  int64 `json:"yellow"`
	Red     int64 `json:"red"`
	Shares  []struct {
		Name  string `json:"name"`
		Point string `json:"point"`
		Quota string `json:"quota"`
		Used  int64  `json:"used"`
	} `json:"shares"`
}

// vsanHealth, vsanSpace, vsanObjects and vsanFiles answer what is asked of vSAN before a sweep. Their types are those of
// govmomi's vsan package, the ids of objects those of vsanapiutils in the vSAN SDK.
type vsanHealth struct {
	ref
	world *world
}

type vsanSpace struct {
	ref
	world *world
}

type vsanObjects struct {
	ref
	world *world
}

type vsanFiles struct {
	ref
	world *world
}

func (w *world) serveVsan() *simulator.Registry {
	registry := simulator.NewRegistry()
	registry.Namespace, registry.Path = "vsan", vsanPath
	registry.Put(&vsanHealth{ref{Type: "VsanVcClusterHealthSystem", Value: "vsan-cluster-health-system"}, w})
	registry.Put(&vsanSpace{ref{Type: "VsanSpaceReportSystem", Value: "vsan-cluster-space-report-system"}, w})
	registry.Put(&vsanObjects{ref{Type: "VsanObjectSystem", Value: "vsan-cluster-object-system"}, w})
	registry.Put(&vsanFiles{ref{Type: "VsanFileServiceSystem", Value: "vsan-cluster-file-service-system"}, w})
	return registry
}

// VsanQueryVcClusterHealthSummary gives the overall colour, and the groups of checks and disks that were set.
func (h *vsanHealth) VsanQueryVcClusterHealthSummary(*vsantypes.VsanQueryVcClusterHealthSummary) soap.HasFault {
	asked := time.Now()
	body := &methods.VsanQueryVcClusterHealthSummaryBody{Res: &vsantypes.VsanQueryVcClusterHealthSummaryResponse{}}
	summary := vsantypes.VsanClusterHealthSummary{
		Timestamp: &asked, OverallHealth: h.world.vsanColour, OverallHealthDescription: h.world.vsanText,
		Groups: []vsantypes.VsanClusterHealthGroup{{
			GroupId: "com.vmware.vsan.health.test.data", GroupName: "Data", GroupHealth: h.world.vsanColour,
		}},
	}
	for _, group := range h.world.vsan.Groups {
		told := vsantypes.VsanClusterHealthGroup{GroupId: group.ID, GroupName: group.Name, GroupHealth: group.Health}
		for _, test := range group.Tests {
			told.GroupTests = append(told.GroupTests, vsantypes.VsanClusterHealthTest{TestName: test.Name, TestHealth: test.Health})
		}
		summary.Groups = append(summary.Groups, told)
	}
	for _, disk := range h.world.vsan.Disks {
		summary.PhysicalDisksHealth = append(summary.PhysicalDisksHealth, vsantypes.VsanPhysicalDiskHealthSummary{
			OverallHealth: disk.Health, Hostname: disk.Host,
			Disks: []vsantypes.VsanPhysicalDiskHealth{{Name: disk.Name, Uuid: disk.Name, SummaryHealth: disk.Health}},
		})
	}
	body.Res.Returnval = summary
	return body
}

// VsanQuerySpaceUsage gives capacity and free space of the datastore, and the thresholds in bytes if they were set.
func (s *vsanSpace) VsanQuerySpaceUsage(*vsantypes.VsanQuerySpaceUsage) soap.HasFault {
	store := s.world.datastore(s.world.mainDatastore)
	body := &methods.VsanQuerySpaceUsageBody{Res: &vsantypes.VsanQuerySpaceUsageResponse{}}
	usage := vsantypes.VsanSpaceUsage{TotalCapacityB: store.Summary.Capacity, FreeCapacityB: store.Summary.FreeSpace}
	if s.world.vsan.Red > 0 {
		usage.CapacityHealthThreshold = &vsantypes.VsanHealthThreshold{
			YellowValue: s.world.vsan.Yellow, RedValue: s.world.vsan.Red,
		}
	}
	body.Res.Returnval = usage
	return body
}

// QuerySyncingVsanObjectsSummary tells what is being resynchronised.
func (o *vsanObjects) QuerySyncingVsanObjectsSummary(*vsantypes.QuerySyncingVsanObjectsSummary) soap.HasFault {
	body := &methods.QuerySyncingVsanObjectsSummaryBody{Res: &vsantypes.QuerySyncingVsanObjectsSummaryResponse{}}
	body.Res.Returnval = vsantypes.VsanHostVsanObjectSyncQueryResult{
		TotalObjectsToSync: o.world.vsan.Objects, TotalBytesToSync: o.world.vsan.Bytes, TotalRecoveryETA: o.world.vsan.ETA,
	}
	return body
}

// VsanClusterQueryFileShares lists the file shares that were set.
func (f *vsanFiles) VsanClusterQueryFileShares(*vsantypes.VsanClusterQueryFileShares) soap.HasFault {
	body := &methods.VsanClusterQueryFileSharesBody{Res: &vsantypes.VsanClusterQueryFileSharesResponse{}}
	result := &vsantypes.FileShareQueryResult{TotalShareCount: int64(len(f.world.vsan.Shares))}
	for _, share := range f.world.vsan.Shares {
		result.FileShares = append(result.FileShares, vsantypes.VsanFileShare{
			Uuid:   share.Name,
			Config: &vsantypes.VsanFileShareConfig{Name: share.Name, Quota: share.Quota},
			Runtime: &vsantypes.VsanFileShareRuntimeInfo{
				UsedCapacity: share.Used, AccessPoints: []types.KeyValue{{Key: "NFSv4.1", Value: share.Point}},
			},
		})
	}
	body.Res.Returnval = result
	return body
}

// hostNetwork is the network that vSAN has on a host.
type hostNetwork struct {
	MTU       int32  `json:"mtu"`
	SpeedMb   int32  `json:"speed_mb"` // 0: no link
	Portgroup string `json:"portgroup"`
	Absent    bool   `json:"absent"`
	RDMA      bool   `json:"rdma"`
}

// wire gives a host the adapter that vSAN runs over, on a switch of its own.
func (w *world) wire(host *simulator.HostSystem, n hostNetwork) {
	stock, ok := w.stockNetworks[host.Self]
	if !ok {
		if host.Config.Network != nil {
			stock = *host.Config.Network
		}
		w.stockNetworks[host.Self] = stock
	}
	network := stock
	link := types.PhysicalNic{Key: "key-vim.host.PhysicalNic-vmnic7", Device: "vmnic7", Driver: "nmlx5_core"}
	if n.SpeedMb > 0 {
		link.LinkSpeed = &types.PhysicalNicLinkInfo{SpeedMb: n.SpeedMb, Duplex: true}
	}
	network.Pnic = append(append([]types.PhysicalNic{}, stock.Pnic...), link)
	network.Vswitch = append(append([]types.HostVirtualSwitch{}, stock.Vswitch...), types.HostVirtualSwitch{
		Name: "vSwitch1", Key: "key-vim.host.VirtualSwitch-vSwitch1", Pnic: []string{link.Key}, Mtu: n.MTU,
	})
	network.Portgroup = append(append([]types.HostPortGroup{}, stock.Portgroup...), types.HostPortGroup{
		Key: "key-vim.host.PortGroup-" + n.Portgroup, Vswitch: "key-vim.host.VirtualSwitch-vSwitch1",
		Spec: types.HostPortGroupSpec{Name: n.Portgroup, VswitchName: "vSwitch1"},
	})
	network.RdmaDevice = nil
	if n.RDMA {
		network.RdmaDevice = []types.HostRdmaDevice{{
			Key: "vmrdma0", Device: "vmrdma0", ConnectionInfo: types.HostRdmaDeviceConnectionInfo{State: "active"},
			Capability: types.HostRdmaDeviceCapability{RoceV2Capable: true},
		}}
	}
	vnic := types.HostVirtualNic{
		Device: "vmk2", Key: "vsan.key-vim.host.VirtualNic-vmk2", Portgroup: n.Portgroup,
		Spec: types.HostVirtualNicSpec{Mtu: n.MTU, Portgroup: n.Portgroup},
	}
	vsan := types.VirtualNicManagerNetConfig{NicType: "vsan", MultiSelectAllowed: true, CandidateVnic: []types.HostVirtualNic{vnic}}
	if !n.Absent {
		vsan.SelectedVnic = []string{vnic.Key}
	}
	host.Config.Network = &network
	host.Config.VirtualNicManagerInfo = &types.HostVirtualNicManagerInfo{NetConfig: []types.VirtualNicManagerNetConfig{vsan}}
	w.touch(host.Self)
}
