//! `fanfare check`: what is wrong with the settings and the files they name, by file and line.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use broadcast::log::keeper::Durability;
use clap::{Args, Parser};
use jiff::Timestamp;
use rustix::fs::{Access, access};
use shared::bearer::KeyFiles;
use shared::link::LinkAddress;
use shared::reload::Source as _;
use shared::reload::file::{Identity, ReadError, read_all};
use shared::settings::{Common, EXIT_CONFIG, describe};
use shared::tls::IdentityFiles;
use shared::tokens::file::{lines, parse, parse_line};

/// Checks the settings in the environment and the files they name; exits with 78 if one is wrong
#[derive(Debug, Args)]
pub(crate) struct Check {}

impl Check {
    /// Looks at everything, and says all that is wrong.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let faults = find_faults();
        let mut out = io::stdout().lock();
        for fault in &faults {
            writeln!(out, "{fault}")?;
        }
        if faults.is_empty() {
            writeln!(out, "all is well")?;
            return Ok(ExitCode::SUCCESS);
        }
        Ok(ExitCode::from(EXIT_CONFIG))
    }
}

fn find_faults() -> Vec<String> {
    let listen = listen::Config::try_parse_from(["listen"]);
    let broadcast = broadcast::config::Config::try_parse_from(["broadcast"]);
    let mut faults = Vec::new();
    faults.extend(listen.as_ref().err().map(describe));
    faults.extend(broadcast.as_ref().err().map(describe));
    // Both have most settings in common, and so most faults.
    faults.dedup();
    // In memory nothing is ever written there.
    let kept = broadcast.as_ref().ok().filter(|it| it.durability != Durability::Memory);
    faults.extend(kept.and_then(|it| folder_fault("DATA_DIR", &it.data_dir)));
    let common = listen.map(|it| it.common).or(broadcast.map(|it| it.common));
    if let Ok(common) = common {
        faults.extend(token_faults(&common.tokens_file));
        faults.extend(bearer_faults(&common));
        faults.extend(certificate_faults(&common));
        faults.extend(socket_fault(&common.link));
    }
    faults
}

fn token_faults(path: &Path) -> Vec<String> {
    let named =
        |line: usize, fault: &dyn std::fmt::Display| format!("{}:{line}: {fault}", path.display());
    let (identities, contents) = match read_all(&[path.to_owned()]) {
        Ok(read) => read,
        Err(error) => return vec![format!("TOKENS_FILE: {error}")],
    };
    let text = contents.first().map(Vec::as_slice).unwrap_or_default();
    let mut faults = Vec::new();
    if identities.iter().any(Identity::is_readable_by_others) {
        faults.push(format!("{}: others can read it; chmod 600", path.display()));
    }
    let (_, complaints) = parse(text);
    faults.extend(complaints.iter().map(|complaint| named(complaint.line, &complaint.fault)));
    let now = Timestamp::now();
    let expired = lines(text).filter(|(_, line)| {
        parse_line(line).ok().flatten().is_some_and(|principal| principal.is_expired(now))
    });
    faults.extend(expired.map(|(number, _)| named(number, &"the token has expired")));
    faults
}

/// What is wrong with the keys of signed tokens, each file by itself.
fn bearer_faults(common: &Common) -> Vec<String> {
    let (secret, public) = (common.jwt_secret_file.clone(), common.jwt_keys_file.clone());
    let files = [
        ("JWT_SECRET_FILE", KeyFiles { secret, public: None }),
        ("JWT_KEYS_FILE", KeyFiles { secret: None, public }),
    ];
    files.iter().flat_map(|(setting, files)| key_faults(setting, files)).collect()
}

fn key_faults(setting: &str, files: &KeyFiles) -> Vec<String> {
    let paths = files.paths();
    let Some(path) = paths.first() else { return Vec::new() };
    let named = |fault: String| format!("{}: {fault}", path.display());
    let (identities, contents) = match read_all(&paths) {
        Ok(read) => read,
        Err(error) => return vec![format!("{setting}: {error}")],
    };
    let mut faults = match files.parse(&contents) {
        Ok(parsed) => parsed.warnings.into_iter().map(named).collect(),
        Err(fault) => vec![format!("{setting}: {fault}")],
    };
    if files.is_secret(0) && identities.iter().any(Identity::is_readable_by_others) {
        faults.push(named("others can read it; chmod 600".to_owned()));
    }
    faults
}

fn certificate_faults(common: &Common) -> Vec<String> {
    if !common.https_enable {
        return Vec::new();
    }
    let paths = [common.cert_file.clone(), common.key_file.clone()];
    let contents = match read_all(&paths) {
        Ok((_, contents)) => contents,
        Err(error) => return vec![format!("{}: {error}", setting_of(&error, &paths))],
    };
    let [certificate, key] = paths;
    match IdentityFiles::new(certificate.clone(), key).parse(&contents) {
        Ok(parsed) => {
            let named = |warning| format!("{}: {warning}", certificate.display());
            parsed.warnings.into_iter().map(named).collect()
        }
        Err(fault) => vec![format!("CERT_FILE, KEY_FILE: {fault}")],
    }
}

fn setting_of(error: &ReadError, [_, key]: &[PathBuf; 2]) -> &'static str {
    let path = match error {
        ReadError::Unreadable(path, _) | ReadError::NotAFile(path) | ReadError::TooLarge(path) => {
            Some(path)
        }
        ReadError::Changing => None,
    };
    if path == Some(key) { "KEY_FILE" } else { "CERT_FILE" }
}

/// Whether broadcast could make its socket.
fn socket_fault(link: &LinkAddress) -> Option<String> {
    let LinkAddress::Unix(path) = link;
    folder_fault("LINK", path.parent().unwrap_or(path))
}

/// Whether files could be made in a folder. One that is not there is made, with all above it.
fn folder_fault(setting: &str, folder: &Path) -> Option<String> {
    let folder = folder.ancestors().find(|it| it.as_os_str().is_empty() || it.exists());
    let folder = match folder {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let fault = if !folder.is_dir() {
        "is not a folder"
    } else if access(folder, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        "is not ours to write in"
    } else {
        return None;
    };
    Some(format!("{setting}: {} {fault}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_the_tokens_file_has_its_line_and_no_secret() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let text = "# fine\nshort\n0123456789abcdef-1 colour=red\n0123456789abcdef-2\n\
            0123456789abcdef-3 expires=2001-01-01T00:00:00Z\n";
        crate::tokens_file::append(&path, text.trim_end()).unwrap();
        let faults = token_faults(&path);
        let starts: Vec<String> =
            [2, 3, 5].map(|line| format!("{}:{line}: ", path.display())).into();
        assert_eq!(faults.len(), 3, "{faults:?}");
        for (fault, start) in faults.iter().zip(starts) {
            assert!(fault.starts_with(&start), "{fault}");
            assert!(!fault.contains("0123"), "{fault}");
        }
    }

    #[test]
    fn a_wrong_setting_is_named_as_in_the_environment() {
        let error =
            listen::Config::try_parse_from(["listen", "--publish-timeout", "5"]).unwrap_err();
        let fault = describe(&error);
        assert!(
            fault.starts_with("PUBLISH_TIMEOUT (--publish-timeout): write a duration"),
            "{fault}"
        );
        assert!(!fault.contains('\n'), "{fault}");
    }

    #[test]
    fn a_wrong_setting_is_not_shown() {
        let url = "amqp:/guest:secret-of-the-broker@host/";
        let error = listen::Config::try_parse_from(["listen", "--amqp-urls", url]).unwrap_err();
        let fault = describe(&error);
        assert!(fault.starts_with("AMQP_URLS") && !fault.contains("secret"), "{fault}");
    }

    #[test]
    fn the_socket_needs_a_folder_to_stand_in() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let at = |path: &Path| socket_fault(&LinkAddress::Unix(path.join("link.sock")));
        assert_eq!(at(&folder.path().join("not/there/yet")), None);
        assert_eq!(at(folder.path()), None);
        assert!(at(&file).is_some_and(|fault| fault.starts_with("LINK: ")));
    }

    #[test]
    fn kept_events_need_a_folder_that_can_be_made() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let at = |path: &Path| folder_fault("DATA_DIR", path);
        for good in [folder.path(), &folder.path().join("not/there/yet"), Path::new("data")] {
            assert_eq!(at(good), None, "{}", good.display());
        }
        for bad in [&file, &file.join("data")] {
            assert_eq!(at(bad), Some(format!("DATA_DIR: {} is not a folder", file.display())));
        }
    }
}
