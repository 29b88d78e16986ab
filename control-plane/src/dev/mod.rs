//! What `tagout dev` and the tests need besides a node.

pub mod model_server;
