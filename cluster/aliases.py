"""Names of keys that people know from other tools, and the key of a cluster's YAML file that each stands for."""

from __future__ import annotations

CLUSTER_ALIASES = {
    **dict.fromkeys(("cluster_name", "cluster"), "name"),
    **dict.fromkeys(("vsphere", "vsphere_config", "vcenter_host", "server"), "vcenter"),
    **dict.fromkeys(("vm_template", "template_name", "source", "frozen_vm", "image"), "template"),
    **dict.fromkeys(("networks", "port_group", "portgroup"), "network"),
    **dict.fromkeys(("available_node_types", "node_types", "worker_types", "nodes"), "workers"),
    **dict.fromkeys(("idle_timeout_minutes", "idle_timeout"), "idle_minutes"),
    **dict.fromkeys(("policy", "vsan_policy", "profile"), "storage_policy"),
    **dict.fromkeys(("policies", "vsan_policies", "storage_profiles"), "storage_policies"),
    **dict.fromkeys(("data_policy", "data_storage_policy"), "shared_storage_policy"),
    **dict.fromkeys(("shared", "nfs", "data"), "shared_folder"),
    **dict.fromkeys(("static_addresses", "static_ips", "ip_pool", "ips", "ip_addresses"), "addresses"),
    **dict.fromkeys(("extra_networks", "storage_network", "storage_networks"), "further_networks"),
    **dict.fromkeys(("ntp_servers", "time_servers", "timeservers"), "ntp"),
    **dict.fromkeys(("http_proxy", "https_proxy"), "proxy"),
    "pool": "resource_pool",
    "head_node": "head",
}
VCENTER_ALIASES = {
    **dict.fromkeys(("server", "address", "hostname", "url"), "host"),
    **dict.fromkeys(("username", "login"), "user"),
    **dict.fromkeys(("password", "pwd"), "password_file"),
    **dict.fromkeys(("insecure", "no_verify", "verify", "validate_certs"), "insecure_skip_verify"),
    **dict.fromkeys(("http_proxy", "https_proxy", "proxy_url"), "proxy"),
    **dict.fromkeys(("ca", "cacert", "ca_cert", "ca_bundle"), "ca_file"),
}
NODE_TYPE_ALIASES = {
    **dict.fromkeys(("card", "gpu_type", "accelerator", "accelerator_type"), "gpu"),
    **dict.fromkeys(("num_gpus", "gpu_count"), "gpus"),
    **dict.fromkeys(("cpu", "num_cpus", "vcpus"), "cpus"),
    **dict.fromkeys(("memory", "ram", "memory_gb", "mem"), "memory_gib"),
    **dict.fromkeys(("disk", "disk_gb"), "disk_gib"),
    **dict.fromkeys(("min_workers", "minimum"), "min"),
    **dict.fromkeys(("max_workers", "maximum", "count"), "max"),
    **dict.fromkeys(("anti_affinity", "antiaffinity"), "spread"),
}
POLICY_ALIASES = {
    **dict.fromkeys(("replicas", "copies", "ftt", "failures_to_tolerate", "host_failures_to_tolerate"), "replica"),
    **dict.fromkeys(("tolerance", "fault_tolerance", "failure_domain"), "failure_tolerance"),
    **dict.fromkeys(("raid_level", "replica_preference", "failure_tolerance_method"), "raid"),
    **dict.fromkeys(("iops", "max_iops", "iops_limit_for_object"), "iops_limit"),
    **dict.fromkeys(("object_space_reservation", "space_reservation", "proportional_capacity"), "provisioning"),
    **dict.fromkeys(("stripes", "stripe", "disk_stripes"), "stripe_width"),
    **dict.fromkeys(("encrypt", "encrypted"), "encryption"),
}
