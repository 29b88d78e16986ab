mod documents;
mod guard;
mod mutation;
mod properties;
mod scenarios;
mod service;
mod world;
