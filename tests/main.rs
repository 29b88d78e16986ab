//! The one integration test binary.

mod authority;
mod bad_input;
mod consent;
mod doctor;
mod dropped;
mod durable;
mod enrolment;
mod faults;
mod flood;
mod followed;
mod full_disk;
mod kill;
mod lease_bound;
mod line;
mod nodes;
mod openapi;
mod pending;
mod power_cut;
mod put_back;
mod restore;
mod size;
mod take_away;
mod tampering;
mod thousand;
mod trip;
mod webhooks;
