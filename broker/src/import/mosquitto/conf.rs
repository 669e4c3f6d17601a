//! The lines of a mosquitto.conf and of what it includes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::import::report::{Kind, Place, Report};

/// Lines of all files together.
const LINES_MAX: usize = 1_000_000;
/// Characters of a line that are shown.
const SHOWN_MAX: usize = 160;

/// One line: what it sets, and to what.
#[derive(Clone, Debug)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) place: Place,
}

/// All lines, in mosquitto's order. `include_dir` is read where it stands.
pub(super) fn read(file: &Path, report: &mut Report) -> io::Result<Vec<Setting>> {
    let text = fs::read_to_string(file)?;
    let mut settings = Vec::new();
    for setting in lines(file, &text) {
        if setting.key != "include_dir" {
            settings.push(setting);
            continue;
        }
        match included(&beside(file, &setting.value)) {
            Ok(files) => {
                report.carried += 1;
                for file in files {
                    match fs::read_to_string(&file) {
                        Ok(text) => settings.extend(lines(&file, &text)),
                        Err(error) => {
                            let why = format!("cannot read {}: {error}", file.display());
                            report.say(Kind::Lost, &setting.place, why);
                        }
                    }
                }
            }
            Err(error) => {
                report.say(Kind::Lost, &setting.place, format!("cannot list it: {error}"));
            }
        }
        if settings.len() > LINES_MAX {
            return Err(io::Error::other(format!("more than {LINES_MAX} lines")));
        }
    }
    Ok(settings)
}

/// The path as mosquitto would find it when it is started beside its file; else
/// as it is written.
pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    let beside = file.parent().map(|dir| dir.join(path));
    beside.filter(|path| path.exists()).unwrap_or_else(|| path.into())
}

/// Upper case before lower case of one letter, as mosquitto sorts.
fn included(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            files.push(path);
        }
    }
    files.sort_by_key(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        (name.to_lowercase(), name)
    });
    Ok(files)
}

pub(super) fn lines(file: &Path, text: &str) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        let (key, value) = (key.to_owned(), value.trim().to_owned());
        let shown = if is_secret(&key) { format!("{key} …") } else { shown(line) };
        let place = Place { file: file.into(), line: i + 1, shown };
        settings.push(Setting { key, value, place });
    }
    settings
}

/// What a plugin is told may be a password.
fn is_secret(key: &str) -> bool {
    key.ends_with("password")
        || key.ends_with("_psk")
        || key.starts_with("auth_opt_")
        || key.starts_with("plugin_opt_")
        || key == "tls_engine_kpass_sha1"
}

pub(super) fn shown(line: &str) -> String {
    let shown: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match shown.char_indices().nth(SHOWN_MAX) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}
