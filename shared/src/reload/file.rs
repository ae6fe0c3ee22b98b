//! Reading small files that may change under our hands.
//!
//! Regular files only (opening a pipe would block its reader for ever), of bounded size, and only
//! if they did not change while they were read.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// HARDENING: a larger tokens file is refused.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Which file it is and in which state, as far as the file system tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    length: u64,
    mode: u32,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            length: metadata.len(),
            mode: metadata.mode(),
        }
    }

    /// Whether both are the same file, whatever it holds.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether users beside its owner and group can read it.
    pub fn is_readable_by_others(&self) -> bool {
        self.mode & 0o004 != 0
    }
}

/// Looks at the files without opening them: opening one would wake every other watcher of it.
///
/// # Errors
///
/// [`ReadError`] names the first that cannot be looked at.
pub fn identify_all(paths: &[PathBuf]) -> Result<Vec<Identity>, ReadError> {
    paths.iter().map(|path| Ok(Identity::of(&stat(path)?))).collect()
}

/// Reads the files whole.
///
/// # Errors
///
/// [`ReadError`] names the first that cannot be read, is no regular file, is too large, or
/// changed while it was read.
pub fn read_all(paths: &[PathBuf]) -> Result<(Vec<Identity>, Vec<Vec<u8>>), ReadError> {
    let read: Result<Vec<_>, _> = paths.iter().map(|path| read(path)).collect();
    Ok(read?.into_iter().unzip())
}

fn stat(path: &Path) -> Result<Metadata, ReadError> {
    let unreadable = |error| ReadError::Unreadable(path.to_owned(), error);
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_file() { Ok(metadata) } else { Err(ReadError::NotAFile(path.to_owned())) }
}

fn read(path: &Path) -> Result<(Identity, Vec<u8>), ReadError> {
    let unreadable = |error| ReadError::Unreadable(path.to_owned(), error);
    stat(path)?;
    // Between the look and the opening a pipe may have taken the file's place: never block on it.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(ReadError::NotAFile(path.to_owned()));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge(path.to_owned()));
    }
    let contents = read_bounded(&file).map_err(unreadable)?;
    let identity = Identity::of(&file.metadata().map_err(unreadable)?);
    let is_whole = u64::try_from(contents.len()).ok() == Some(identity.length);
    if identity != Identity::of(&metadata) || !is_whole {
        return Err(ReadError::Changing);
    }
    Ok((identity, contents))
}

fn read_bounded(file: &File) -> std::io::Result<Vec<u8>> {
    let mut contents = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut contents)?;
    Ok(contents)
}

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is missing, or may not be read.
    #[error("{path} cannot be read: {1}", path = .0.display())]
    Unreadable(PathBuf, #[source] std::io::Error),
    /// It is a pipe, a folder, or another thing that is no file.
    #[error("{} is not a regular file", .0.display())]
    NotAFile(PathBuf),
    /// It is larger than any such file should be.
    #[error("{} is larger than 64 MiB", .0.display())]
    TooLarge(PathBuf),
    /// It changed while it was read; it is looked at again soon.
    #[error("the file changes while it is read")]
    Changing,
}
