package main

import (
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vsan/methods"
	vsantypes "github.com/vmware/govmomi/vsan/types"
)

const vsanPath = "/vsanHealth"

// vsanHealth and vsanSpace answer the two questions that are asked of vSAN before a sweep.
type vsanHealth struct {
	ref
	world *world
}

type vsanSpace struct {
	ref
	world *world
}

func (w *world) serveVsan() *simulator.Registry {
	registry := simulator.NewRegistry()
	registry.Namespace, registry.Path = "vsan", vsanPath
	registry.Put(&vsanHealth{ref{Type: "VsanVcClusterHealthSystem", Value: "vsan-cluster-health-system"}, w})
	registry.Put(&vsanSpace{ref{Type: "VsanSpaceReportSystem", Value: "vsan-cluster-space-report-system"}, w})
	return registry
}

// VsanQueryVcClusterHealthSummary gives the overall colour, and one group that carries it.
func (h *vsanHealth) VsanQueryVcClusterHealthSummary(*vsantypes.VsanQueryVcClusterHealthSummary) soap.HasFault {
	asked := time.Now()
	body := &methods.VsanQueryVcClusterHealthSummaryBody{Res: &vsantypes.VsanQueryVcClusterHealthSummaryResponse{}}
	body.Res.Returnval = vsantypes.VsanClusterHealthSummary{
		Timestamp: &asked, OverallHealth: h.world.vsanColour, OverallHealthDescription: h.world.vsanText,
		Groups: []vsantypes.VsanClusterHealthGroup{{
			GroupId: "com.vmware.vsan.health.test.data", GroupName: "Data", GroupHealth: h.world.vsanColour,
		}},
	}
	return body
}

// VsanQuerySpaceUsage gives capacity and free space of the datastore.
func (s *vsanSpace) VsanQuerySpaceUsage(*vsantypes.VsanQuerySpaceUsage) soap.HasFault {
	store := s.world.datastore(s.world.mainDatastore)
	body := &methods.VsanQuerySpaceUsageBody{Res: &vsantypes.VsanQuerySpaceUsageResponse{}}
	body.Res.Returnval = vsantypes.VsanSpaceUsage{TotalCapacityB: store.Summary.Capacity, FreeCapacityB: store.Summary.FreeSpace}
	return body
}
