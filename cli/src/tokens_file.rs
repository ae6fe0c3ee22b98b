//! Changes of the tokens file that no reader ever sees half done.
//!
//! Used by `token` and by `up`. The gateway follows the file; it gets the new one by a rename.
//! Two changes at once wait for each other at a file beside it, which stays there empty: taking
//! it away would let a third one lock another file of the same name.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{Gid, Uid};
use shared::credentials::Credentials;
use shared::pattern::Pattern;
use shared::reload::file::read_all;
use shared::tokens::file;

/// The file's whole text; nothing at all where there is no file.
///
/// # Errors
///
/// It cannot be read, or is no regular file.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    let (_, mut contents) = read_all(&[path.to_owned()])?;
    Ok(contents.pop().unwrap_or_default())
}

/// Changes the file as a whole: `change` gets its text, and gives the new one.
///
/// # Errors
///
/// `change` refuses, or the system does; the file is then as it was.
pub(crate) fn change(
    path: &Path,
    change: impl FnOnce(&[u8]) -> anyhow::Result<Vec<u8>>,
) -> anyhow::Result<()> {
    let named = || path.display().to_string();
    // A rename over a link would put a file in its place: change what it points to.
    let target = if path.exists() { path.canonicalize().with_context(named)? } else { path.into() };
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).with_context(named)?;
    let lock = beside(&target, "lock");
    let lock = OpenOptions::new().create(true).append(true).mode(0o600).open(lock);
    let lock = lock.with_context(named)?;
    lock.lock().with_context(named)?;
    let text = change(&read(&target)?)?;
    replace(&target, folder, &text).with_context(named)
}

/// Appends a line.
///
/// # Errors
///
/// As [`change`].
pub(crate) fn append(path: &Path, line: &str) -> anyhow::Result<()> {
    change(path, |text| {
        let mut text = text.to_vec();
        if !matches!(text.last(), None | Some(b'\n' | b'\r')) {
            text.push(b'\n');
        }
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
        Ok(text)
    })
}

/// A new secret of 160 random bits.
///
/// # Errors
///
/// The system has no randomness.
pub(crate) fn new_secret() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 20];
    aws_lc_rs::rand::fill(&mut bytes).ok().context("the system has no randomness")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The first secret in the text that works and may publish and subscribe everything.
pub(crate) fn first_usable(text: &[u8]) -> Option<String> {
    let everything = Pattern::parse(">").ok()?;
    let (tokens, _) = file::parse(text);
    file::lines(text).find_map(|(_, line)| {
        let secret = std::str::from_utf8(line).ok()?.split_whitespace().next()?;
        let principal = tokens.authenticate(&Credentials::read(&format!("Basic {secret}"))).ok()?;
        let publish = principal.grant.publish.iter().any(|it| it.covers(&everything));
        let is_usable = publish && principal.grant.may_subscribe(&everything);
        is_usable.then(|| secret.to_owned())
    })
}

/// Writes a file beside the old one, with its mode and owner, and puts it in its place.
fn replace(target: &Path, folder: &Path, text: &[u8]) -> io::Result<()> {
    let new = beside(target, &format!("new-{}", std::process::id()));
    let written = write_like(target, &new, text).and_then(|()| fs::rename(&new, target));
    if written.is_err() {
        // What could not be put in place must not stay behind: it holds secrets.
        let _ = fs::remove_file(&new);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write_like(old: &Path, new: &Path, text: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    if let Ok(metadata) = fs::metadata(old) {
        let owner = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
        // Only root may give a file away; to anybody else the file was their own already.
        let _ = rustix::fs::fchown(&file, Some(owner.0), Some(owner.1));
        file.set_permissions(metadata.permissions())?;
    }
    file.write_all(text)?;
    file.sync_all()
}

/// A hidden file beside the target.
fn beside(target: &Path, ending: &str) -> PathBuf {
    let name = target.file_name().and_then(OsStr::to_str).unwrap_or("tokens");
    target.with_file_name(format!(".{name}.{ending}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_file_is_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/tokens");
        append(&path, "0123456789abcdef").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"0123456789abcdef\n");
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn a_change_keeps_the_mode_and_follows_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("real"), folder.path().join("tokens"));
        fs::write(&file, "# no end").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        append(&link, "0123456789abcdef").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"# no end\n0123456789abcdef\n");
        assert_eq!(mode(&file), 0o640);
    }

    #[test]
    fn changes_at_once_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let path = &path;
                scope.spawn(move || append(path, &format!("# {number}")).unwrap());
            }
        });
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 8);
    }

    #[test]
    fn a_refused_change_leaves_all_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        append(&path, "# one").unwrap();
        assert!(change(&path, |_| anyhow::bail!("no")).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"# one\n");
    }

    #[test]
    fn the_first_secret_that_may_do_everything_is_found() {
        let text = b"# 0123456789abcdef\nshort\nsha256:00\nanonymous\n\
            0123456789abcdef-1 publish=a\n0123456789abcdef-2 expires=2001-01-01T00:00:00Z\n\
            0123456789abcdef-3 name=x\n0123456789abcdef-4\n";
        assert_eq!(first_usable(text).as_deref(), Some("0123456789abcdef-3"));
        assert_eq!(first_usable(b"anonymous subscribe=>\n"), None);
    }
}
