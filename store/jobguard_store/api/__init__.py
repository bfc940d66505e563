"""The store's face: the etcd v3 API over JSON and HTTP, and plain endpoints for operators."""
