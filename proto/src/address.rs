//! A node's address, `host:port`, as the authority writes it.

use core::net::{Ipv4Addr, Ipv6Addr};

use crate::limits::{DNS_LABEL_MAX_BYTES, DNS_NAME_MAX_BYTES};

/// What `is_address` takes, for people.
pub const SHAPE: &str = "host:port: a DNS name in lower case or an IP address in its canonical form (IPv6 in brackets, no \
     wildcard), and a port from 1 to 65535";

/// Whether `text` is `host:port`, written in the one way for it, so that equal addresses are equal texts.
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_is_one = port.parse::<u16>().is_ok_and(|number| number > 0 && number.to_string() == port);
    port_is_one && is_host(host)
}

/// The part before the colon: a DNS name, or an IP address with IPv6 in brackets.
pub fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        let canonical = |ip: Ipv6Addr| ip.to_string() == inner && ip.to_ipv4_mapped().is_none();
        return inner.parse().is_ok_and(|ip: Ipv6Addr| canonical(ip) && !ip.is_unspecified());
    }
    if let Ok(ip) = host.parse::<Ipv4Addr>() {
        return !ip.is_unspecified();
    }
    let labels: Vec<&str> = host.split('.').collect();
    let is_label = |label: &&str| {
        (1..=DNS_LABEL_MAX_BYTES).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // No name ends with a label of digits only: it would be a mistaken IPv4 address.
    let is_number = labels.last().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    host.len() <= DNS_NAME_MAX_BYTES && labels.iter().all(is_label) && !is_number
}
