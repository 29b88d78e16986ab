//! `openapi.json` against the node: what it says of the API must be so, and all that is so must be in it.

mod document;
mod schema;
mod traffic;
