//! Discovery: the addresses at which peers may be.

use std::collections::BTreeSet;
use std::io;

use crate::config::Discovery;

/// Bytes of a file of peers.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What discovery says now.
///
/// # Errors
/// When the name does not resolve or the file cannot be read.
pub(super) async fn resolve(discovery: &Discovery) -> io::Result<Vec<String>> {
    match discovery {
        Discovery::Static(list) => Ok(list.clone()),
        Discovery::Dns { name, port } => {
            let found = tokio::net::lookup_host((name.as_str(), *port)).await?;
            let distinct: BTreeSet<_> = found.map(|address| address.to_string()).collect();
            Ok(distinct.into_iter().collect())
        }
        Discovery::File(path) => {
            let len = std::fs::metadata(path)?.len();
            if len > FILE_BYTES_MAX {
                let error = format!("{len} bytes are above {FILE_BYTES_MAX}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            let text = std::fs::read_to_string(path)?;
            let lines = text.lines().map(str::trim);
            let addresses = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
            Ok(addresses.map(str::to_owned).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_has_a_line_a_peer() {
        let path = std::env::temp_dir().join(format!("tidegate-peers-{}", std::process::id()));
        std::fs::write(&path, "# ours\n a:1 \n\nb:2\n").expect("our own file");
        let found = resolve(&Discovery::File(path.clone())).await.expect("it is there");
        assert_eq!(found, ["a:1", "b:2"]);
        std::fs::remove_file(&path).expect("our own file");
        assert!(resolve(&Discovery::File(path)).await.is_err());
    }

    #[tokio::test]
    async fn a_name_is_all_its_addresses() {
        let dns = Discovery::Dns { name: "localhost".into(), port: 7883 };
        let found = resolve(&dns).await.expect("every machine knows it");
        assert!(found.iter().any(|address| address.ends_with(":7883")), "{found:?}");
    }
}
