//! `tagout renew`: a new certificate for a node, from the deployment's CA, in place of the one that ends. The key stays, so
//! one file is replaced; the node takes it over within seconds.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Exit, Failure, chain};
use super::out::{Out, instant};
use crate::config::NodeConfig;
use crate::pki;

#[derive(Args)]
pub struct RenewArgs {
    /// The node's folder, with its tagout.toml
    #[arg(value_name = "NODE_DIR")]
    folder: PathBuf,
    /// The folder of the deployment's CA, with its key
    #[arg(long, value_name = "CA_DIR")]
    ca: PathBuf,
}

pub fn run(out: &Out, args: RenewArgs) -> Result<Exit, Failure> {
    let config = NodeConfig::load(&args.folder.join("tagout.toml"))
        .map_err(|e| Failure::new(Exit::Failed, "config", chain(&e)))?;
    let trusted = config.ca.as_deref().map(pki::load_pem).transpose()?;
    let renewed = pki::renew(&args.ca, &config.tls_cert, &config.tls_key, trusted.as_deref())?;
    let (cert, until, ca) = (&config.tls_cert, ms(renewed.now.ends), ms(renewed.ca.ends));
    out.document(&serde_json::json!({ "certificate": cert, "until_ms": until, "ca_until_ms": ca }));
    out.line(format!(
        "renewed {}: valid until {}, before until {}",
        cert.display(),
        instant(until),
        instant(ms(renewed.before.ends))
    ));
    out.line("a running node takes it over within 10 seconds, without a restart (SIGHUP: at once)");
    if renewed.now.ends >= renewed.ca.ends {
        out.note(format!(
            "warning: the CA itself ends at {}, and the certificate with it: make a new CA in time, and have everybody trust \
             both",
            instant(ca)
        ));
    }
    Ok(Exit::Ok)
}

fn ms(unix: i64) -> u64 {
    u64::try_from(unix).unwrap_or_default().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing;

    #[test]
    fn a_node_that_was_made_by_init_is_renewed_in_place() {
        let deployed = testing::deployed();
        let config = NodeConfig::load(&deployed.made.node_config).unwrap();
        let before = pki::load(&config.tls_cert, &config.tls_key).unwrap();
        let node = deployed.made.node_config.parent().unwrap().to_owned();
        let args = RenewArgs { folder: node, ca: deployed.dir.path().join("ca") };
        assert_eq!(run(&Out::new(true), args).unwrap(), Exit::Ok);
        let after = pki::load(&config.tls_cert, &config.tls_key).unwrap();
        assert!(after.cert_pem != before.cert_pem && after.key_pem == before.key_pem);

        let nowhere = RenewArgs { folder: deployed.dir.path().join("x"), ca: deployed.dir.path().join("ca") };
        assert_eq!(run(&Out::new(true), nowhere).unwrap_err().exit, Exit::Failed);
    }
}
