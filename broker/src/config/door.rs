//! What the keys of one listener mean together: who may come in, and how.

use super::file::{AuthTable, ListenerTable};
use super::listener::{Bind, ClientAuth, ProxyProtocol, TlsFiles, TlsVersion, UserFrom};
use super::problem::{Faults, Problem};
use super::resolve::Warning;

/// Bytes of the path of a WebSocket.
const WS_PATH_MAX: usize = 1_024;

/// One listener's table, at `key`.
pub(super) struct Door<'a> {
    pub(super) key: &'a str,
    pub(super) bind: &'a Bind,
    pub(super) table: &'a ListenerTable,
    pub(super) auth: &'a AuthTable,
}

impl Door<'_> {
    fn name(&self) -> &str {
        self.key.strip_prefix("listener.").unwrap_or(self.key)
    }

    /// Whether anything but `anonymous` lets clients in.
    fn has_identity(&self) -> bool {
        self.table.user_from() != UserFrom::Connect || self.auth.password_file.is_some()
    }

    /// Whether clients without credentials come in; refused where nobody said so.
    pub(super) fn anonymous(&self, warnings: &mut Vec<Warning>, faults: &mut Faults) -> bool {
        let key = format!("{}.anonymous", self.key);
        match self.table.anonymous {
            Some(true) => {
                if !self.bind.is_local() {
                    let (name, bind) = (self.name().into(), self.bind.clone());
                    warnings.push(Warning::OpenToAnybody { name, bind });
                }
                true
            }
            Some(false) if self.has_identity() => false,
            Some(false) => {
                faults.push(Problem::NobodyCanConnect { key });
                false
            }
            None if self.has_identity() || faults.about(&key) => false,
            None => match self.bind {
                Bind::Tcp(bind) if !bind.ip().is_loopback() => {
                    let key = format!("{}.bind", self.key);
                    faults.push(Problem::OpenWithoutSayingSo { key, bind: *bind });
                    false
                }
                Bind::Tcp(_) | Bind::Unix(_) => true,
            },
        }
    }

    /// The files of TLS, if the listener has TLS.
    pub(super) fn tls(&self, faults: &mut Faults) -> Option<TlsFiles> {
        let table = self.table;
        if !table.transport().has_tls() {
            let set = [
                ("tls_certificate", table.tls_certificate.is_some()),
                ("tls_key", table.tls_key.is_some()),
                ("tls_sni_dir", table.tls_sni_dir.is_some()),
                ("tls_client_ca", table.tls_client_ca.is_some()),
                ("tls_client_auth", table.tls_client_auth() != ClientAuth::default()),
                ("tls_crl", table.tls_crl.is_some()),
                ("tls_version_min", table.tls_version_min() != TlsVersion::default()),
            ];
            for (name, _) in set.iter().filter(|(_, set)| *set) {
                let fix = format!("set {}.transport = \"tls\" or \"wss\"", self.key);
                self.no_effect(name, "without TLS", &fix, faults);
            }
            return None;
        }
        let client_auth = table.tls_client_auth();
        if client_auth != ClientAuth::Off && table.tls_client_ca.is_none() {
            let why = "clients are asked for certificates";
            self.missing("tls_client_ca", why, "name the authorities that sign them", faults);
        }
        if client_auth == ClientAuth::Off {
            let fix = "set tls_client_auth = \"optional\" or \"required\"";
            if table.tls_client_ca.is_some() {
                self.no_effect("tls_client_ca", "while clients are not asked", fix, faults);
            }
            if table.tls_crl.is_some() {
                self.no_effect("tls_crl", "while clients are not asked", fix, faults);
            }
        }
        let missing = |name: &str, faults: &mut Faults| {
            self.missing(name, "the listener has TLS", "name a file in PEM", faults);
        };
        if table.tls_certificate.is_none() {
            missing("tls_certificate", faults);
        }
        if table.tls_key.is_none() {
            missing("tls_key", faults);
        }
        Some(TlsFiles {
            certificate: table.tls_certificate.clone()?,
            key: table.tls_key.clone()?,
            sni_dir: table.tls_sni_dir.clone(),
            client_ca: table.tls_client_ca.clone(),
            client_auth,
            crl: table.tls_crl.clone(),
            version_min: table.tls_version_min(),
        })
    }

    /// Keys that do not fit each other.
    pub(super) fn check(&self, faults: &mut Faults) {
        let table = self.table;
        let proxied = table.proxy_protocol() != ProxyProtocol::Off;
        let trusts = table.trusted_sources.as_ref().is_some_and(|sources| !sources.0.is_empty());
        if matches!(self.bind, Bind::Tcp(_)) && proxied && !trusts {
            let why = "a PROXY header is only taken from who is trusted";
            self.missing("trusted_sources", why, "list the proxies, as [\"10.0.0.0/8\"]", faults);
        }
        if trusts && !proxied && !table.transport().has_websocket() {
            let fix = "set proxy_protocol, or transport to \"ws\" or \"wss\"";
            self.no_effect("trusted_sources", "on a listener without proxy", fix, faults);
        }
        let path = table.ws_path();
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '?' | '#');
        if !path.starts_with('/') || path.len() > WS_PATH_MAX || !path.chars().all(fits) {
            faults.push(Problem::Unfit {
                key: format!("{}.ws_path", self.key),
                value: path.clone(),
                why: "is not the path of a URL".into(),
                fix: "use one such as \"/mqtt\", without '?' and '#'".into(),
            });
        }
        let default_path = ListenerTable::default().ws_path();
        if path != default_path && !table.transport().has_websocket() {
            let fix = "set transport to \"ws\" or \"wss\"";
            self.no_effect("ws_path", "without WebSocket", fix, faults);
        }
        match table.user_from() {
            UserFrom::Connect => {}
            UserFrom::CertificateCn | UserFrom::CertificateSan => {
                if !table.transport().has_tls() || table.tls_client_auth() == ClientAuth::Off {
                    let fix = "use a listener with TLS and set tls_client_auth";
                    self.no_effect("user_from", "without client certificates", fix, faults);
                }
            }
            UserFrom::ProxyCn => {
                if !matches!(table.proxy_protocol(), ProxyProtocol::V2 | ProxyProtocol::Any) {
                    let fix = "set proxy_protocol = \"v2\"";
                    self.no_effect("user_from", "without a PROXY header that tells", fix, faults);
                }
            }
        }
        for (name, set, of, rate) in [
            (
                "connects_burst",
                table.connects_burst,
                "connects_per_second",
                table.connects_per_second,
            ),
            (
                "source_connects_burst",
                table.source_connects_burst,
                "source_connects_per_second",
                table.source_connects_per_second,
            ),
        ] {
            if set.is_some() && rate.is_none() {
                self.no_effect(name, "without a rate", &format!("set {of}"), faults);
            }
        }
    }

    fn no_effect(&self, name: &str, when: &str, fix: &str, faults: &mut Faults) {
        let key = format!("{}.{name}", self.key);
        faults.push(Problem::NoEffect { key, when: when.into(), fix: fix.into() });
    }

    fn missing(&self, name: &str, why: &str, fix: &str, faults: &mut Faults) {
        let key = format!("{}.{name}", self.key);
        if faults.about(&key) {
            return; // it is there, and wrong
        }
        faults.push(Problem::Missing { key, why: why.into(), fix: fix.into() });
    }
}
