//! TLS against rustls' own client, through memory and files.

mod client_certificates;
mod faults;
mod pki;
mod reload;
mod server_names;
mod sessions;
mod splits;
