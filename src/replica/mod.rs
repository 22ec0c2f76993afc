//! The vault side: recovery points as immutable objects in object storage.
