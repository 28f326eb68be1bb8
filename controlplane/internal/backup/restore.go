package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"filippo.io/age"

	"github.com/tandem-lb/tandem/controlplane/internal/atomicfile"
	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
)

const (
	// unfinishedName is there while a restore is under way.
	unfinishedName = "restore.unfinished"
	// lostAndFound is in an empty file system.
	lostAndFound = "lost+found"
)

var (
	// ErrCutOff means that a backup has no end.
	ErrCutOff = errors.New("the backup is cut off: it does not end in SHA256SUMS; use a whole one")
	// ErrPassphrase means that an encrypted backup came without its passphrase.
	ErrPassphrase = errors.New("the backup is encrypted: give its passphrase with --passphrase-file")
)

// CheckFinished fails when a restore into dir was cut short.
func CheckFinished(dir string) error {
	_, err := os.Lstat(filepath.Join(dir, unfinishedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return errors.Join(err, fmt.Errorf("a restore into %s was cut short: remove what is in it and restore again", dir))
}

// Restore makes a data directory of a backup: dir must be empty, or is made.
// The store in it has a new epoch and waits for an operator. passphrase is used
// for an encrypted backup. finish, if not nil, adds to the directory before it
// counts as restored; without that CheckFinished refuses it.
func Restore(ctx context.Context, dir string, backup io.Reader, passphrase string, finish func(ctx context.Context, path string) error) (*store.Restored, error) {
	plain, err := decrypt(backup, passphrase)
	if err != nil {
		return nil, err
	}
	if err := begin(dir); err != nil {
		return nil, err
	}
	made, err := unpack(dir, plain)
	if err != nil {
		// Nothing of it is of use; the directory may be used again.
		return nil, errors.Join(err, clean(dir))
	}
	path := filepath.Join(dir, StateName)
	restored, err := bolt.Renew(ctx, path, made.Time)
	if err == nil && restored.Epoch != made.Epoch {
		err = fmt.Errorf("the backup says that its store has epoch %s, and it has %s", made.Epoch, restored.Epoch)
	}
	if err == nil && finish != nil {
		err = finish(ctx, path)
	}
	if err != nil {
		return nil, errors.Join(err, clean(dir))
	}
	if err := os.Remove(filepath.Join(dir, unfinishedName)); err != nil {
		return nil, err
	}
	return restored, atomicfile.SyncDir(dir)
}

// decrypt returns the tar file of a backup, encrypted or not.
func decrypt(backup io.Reader, passphrase string) (io.Reader, error) {
	const magic = "age-encryption.org/"
	in := bufio.NewReaderSize(backup, 1<<16)
	if head, err := in.Peek(len(magic)); err != nil || string(head) != magic {
		return in, nil
	}
	if passphrase == "" {
		return nil, ErrPassphrase
	}
	identity, err := age.NewScryptIdentity(passphrase)
	if err != nil {
		return nil, err
	}
	plain, err := age.Decrypt(in, identity)
	if err != nil {
		return nil, fmt.Errorf("decrypt the backup: %w", err)
	}
	return plain, nil
}

// begin takes an empty directory.
func begin(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return e.Name() == lostAndFound })
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty (%s is in it): restore into an empty directory; to go back to a backup, stop the controller and move what is in it away",
			dir, entries[0].Name())
	}
	return atomicfile.WriteFile(filepath.Join(dir, unfinishedName), nil, 0o600)
}

// clean removes what a failed restore has made, the mark at last.
func clean(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() != unfinishedName && e.Name() != lostAndFound {
			err = errors.Join(err, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, os.Remove(filepath.Join(dir, unfinishedName)))
}

// known are the entries that are files of the data directory.
func known() []string { return append(slices.Clone(pki.FileNames), StateName) }

// unpack puts the files of a backup into dir and checks their sums.
func unpack(dir string, backup io.Reader) (*manifest, error) {
	in := tar.NewReader(backup)
	var made *manifest
	var sums []byte
	missing := known()
	for {
		header, err := in.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, ErrCutOff
		}
		if err != nil {
			return nil, fmt.Errorf("this is no backup of a controller, or it is damaged: %w", err)
		}
		name, sum := header.Name, sha256.New()
		switch i := slices.Index(missing, name); {
		case name == manifestName && made == nil:
			if made, err = readManifest(io.TeeReader(in, sum)); err != nil {
				return nil, err
			}
		case made == nil:
			return nil, errors.New("this is no backup of a controller: it does not begin with manifest.json")
		case i >= 0:
			missing = slices.Delete(missing, i, i+1)
			mode := fs.FileMode(0o600)
			if name == pki.CertificateFile {
				mode = 0o644
			}
			if err := extract(filepath.Join(dir, name), mode, io.TeeReader(in, sum)); err != nil {
				return nil, damaged(err)
			}
		case name == sumsName:
			want, err := io.ReadAll(io.LimitReader(in, 1<<16))
			if err != nil {
				return nil, damaged(err)
			}
			missing = slices.DeleteFunc(missing, func(name string) bool { return name == pki.NextKeyFile })
			if !bytes.Equal(want, sums) || len(missing) > 0 {
				return nil, errors.New("the backup is damaged: its SHA256SUMS are not those of its files; use another one")
			}
			// Encryption has an end of its own.
			if _, err := io.Copy(io.Discard, backup); err != nil {
				return nil, damaged(err)
			}
			return made, atomicfile.SyncDir(dir)
		default:
			return nil, fmt.Errorf("the backup holds %q, which this controller does not know: use the version that made it, or a newer one", name)
		}
		sums = fmt.Appendf(sums, "%x  %s\n", sum.Sum(nil), name)
	}
}

func damaged(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return ErrCutOff
	}
	return fmt.Errorf("the backup cannot be read: %w", err)
}

func readManifest(r io.Reader) (*manifest, error) {
	text, err := io.ReadAll(io.LimitReader(r, 1<<16))
	if err != nil {
		return nil, damaged(err)
	}
	made := &manifest{}
	if err := json.Unmarshal(text, made); err != nil {
		return nil, fmt.Errorf("the backup's manifest.json: %w", err)
	}
	if made.Format != format {
		return nil, fmt.Errorf("the backup has format %d and this controller knows %d: use the version that made it (%s)", made.Format, format, made.Version)
	}
	return made, nil
}

// extract writes a new file and syncs it.
func extract(path string, mode fs.FileMode, data io.Reader) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := io.Copy(f, data); err != nil {
		return err
	}
	return f.Sync()
}
