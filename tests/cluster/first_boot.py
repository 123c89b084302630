"""What cloud-init does at a first boot, with cloud-init's own code: run by the system's Python, in a test machine.

Arguments: the tool that reads and writes the guestinfo. Prints the host name.
"""

import sys
from typing import Any

from cloudinit import util  # type: ignore[import-not-found]
from cloudinit.config import cc_write_files  # type: ignore[import-not-found]
from cloudinit.sources import DataSourceVMware as VMware  # type: ignore[import-not-found]


def main(tool: str) -> None:
    source = VMware.DataSourceVMware({}, None, None)
    source.vmware_rpctool = tool
    source.data_access_method = VMware.DATA_ACCESS_METHOD_GUESTINFO
    source.metadata = VMware.process_metadata(VMware.load_json_or_yaml(VMware.guestinfo("metadata", tool)))
    user_data: dict[str, Any] = util.load_yaml(VMware.guestinfo("userdata", tool))
    source.redact_keys()
    cc_write_files.write_files("write_files", user_data["write_files"], "root:root")
    print(source.metadata["local-hostname"])


main(sys.argv[1])
