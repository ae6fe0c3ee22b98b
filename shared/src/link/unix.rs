//! The Unix socket under the link: who may make it, who may come to it.

use std::io;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};

use rustix::fs::Gid;
use tokio::net::{UnixListener, UnixStream};

/// The place where senders come to.
#[derive(Debug)]
pub struct Rendezvous {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket that we made.
    made: (u64, u64),
}

impl Rendezvous {
    /// Makes the socket, and its folder where there is none. With a group, its members may
    /// connect too.
    ///
    /// # Errors
    ///
    /// [`RendezvousError`] says why there can be none. A socket that nobody listens at any more is
    /// taken away first; anything else at its path is left alone.
    pub async fn open(path: &Path, group: Option<u32>) -> Result<Self, RendezvousError> {
        let failed = |error| RendezvousError::Failed(path.to_owned(), error);
        make_folder(path, group).map_err(failed)?;
        clear(path).await?;
        let listener = UnixListener::bind(path).map_err(failed)?;
        // The folder is closed to others, so nobody can come before the mode is set.
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).map_err(failed)?;
        give_to(path, group).map_err(failed)?;
        let metadata = std::fs::symlink_metadata(path).map_err(failed)?;
        let made = (metadata.dev(), metadata.ino());
        Ok(Self { listener, path: path.to_owned(), made })
    }

    /// Waits for a sender whose user is ours, or one of `uids`.
    ///
    /// # Errors
    ///
    /// The socket is of no use any more, or the process is out of descriptors.
    pub async fn accept(&self, uids: &[u32]) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            match check_peer(&stream, uids) {
                Ok(()) => return Ok(stream),
                Err(error) => log::warn!("a sender was turned away from the link: {error}"),
            }
        }
    }
}

impl Drop for Rendezvous {
    /// Takes the socket away, unless somebody has put another one in its place.
    fn drop(&mut self) {
        let is_ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.made);
        if is_ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("{} stays behind: {error}", self.path.display());
        }
    }
}

/// Comes to the place, and checks that who made it is our user, or one of `uids`.
///
/// # Errors
///
/// Nobody is there, or somebody who should not be.
pub async fn connect(path: &Path, uids: &[u32]) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path).await?;
    check_peer(&stream, uids)?;
    Ok(stream)
}

fn check_peer(stream: &UnixStream, uids: &[u32]) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    if uid == rustix::process::geteuid().as_raw() || uids.contains(&uid) {
        return Ok(());
    }
    let fault = format!("user {uid} is neither ours nor in LINK_UIDS");
    Err(io::Error::new(io::ErrorKind::PermissionDenied, fault))
}

fn make_folder(path: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else {
        return Ok(());
    };
    if folder.exists() {
        return Ok(());
    }
    let mode = if group.is_some() { 0o750 } else { 0o700 };
    std::fs::DirBuilder::new().recursive(true).mode(mode).create(folder)?;
    give_to(folder, group)
}

fn give_to(path: &Path, group: Option<u32>) -> io::Result<()> {
    let Some(group) = group else { return Ok(()) };
    Ok(rustix::fs::chown(path, None, Some(Gid::from_raw(group)))?)
}

/// Takes a stale socket away. Whether it is stale only a connection can tell.
async fn clear(path: &Path) -> Result<(), RendezvousError> {
    let failed = |error| RendezvousError::Failed(path.to_owned(), error);
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(RendezvousError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => Err(RendezvousError::InUse(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            log::info!("a socket of an earlier run is taken away: {}", path.display());
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

/// Why there is no place for senders to come to.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    /// Another process listens there.
    #[error("another broadcast is running: somebody answers at {}", .0.display())]
    InUse(PathBuf),
    /// What stands at the path is no socket, and is not ours to take away.
    #[error("{} is there and is not a socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("no socket can be made at {path}: {1}", path = .0.display())]
    Failed(PathBuf, #[source] io::Error),
}
