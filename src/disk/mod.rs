//! The write tracker, its `.hrl` files, and the NBD server that a hypervisor writes to.
