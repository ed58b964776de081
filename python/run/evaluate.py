"""The worker behind ``ipcctl.eval()`` in TypeScript: an empty namespace that ends with its client."""

import ipcctl
from ipcctl._serving import serving

serving().on_last_client_gone = ipcctl.stop
ipcctl.serve()
