package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/failure"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// backupFlags say what becomes of a backup.
type backupFlags struct {
	passphraseFile string
	plain, force   bool
}

func (a *app) backupCommand() *cobra.Command {
	var f backupFlags
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Save everything that the controller must not lose",
		Long: `Save all clusters, revisions and hashed tokens, and the CA with its key, as
they are at one moment, from a running controller; - writes to standard
output. Events are left out. "lb-controller restore" makes a data directory
of it.

It holds every secret of the controller, so it is encrypted with a passphrase
by age (age-encryption.org): without --passphrase-file you are asked. With
--plain it is a tar file in the clear, for what encrypts by itself. A backup
that was cut off is recognised, and a file appears only when it is whole.`,
		Example: `  lbctl backup tandem.backup --passphrase-file backup.pass
  lbctl backup - --plain | ssh vault 'age -r age1... > tandem.age'`,
		Args: arguments("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			passphrase, err := f.passphrase(cmd.Context(), a)
			if err != nil {
				return err
			}
			return a.streaming(func(ctx context.Context, s *session, args []string) error {
				if args[0] == "-" {
					return backUp(ctx, s, a.env.Stdout, passphrase)
				}
				return writeFile(args[0], f.force, func(w io.Writer) error { return backUp(ctx, s, w, passphrase) })
			})(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.passphraseFile, "passphrase-file", "", "file with the passphrase, - for standard input (default: ask)")
	flags.BoolVar(&f.plain, "plain", false, "do not encrypt it: it then holds every secret in the clear")
	flags.BoolVar(&f.force, "force", false, "replace FILE if it exists")
	return cmd
}

// passphrase returns what to encrypt with; empty: nothing.
func (f *backupFlags) passphrase(ctx context.Context, a *app) (string, error) {
	switch {
	case f.plain && f.passphraseFile != "":
		return "", failure.Usagef("give --passphrase-file or --plain, not both")
	case f.plain:
		return "", nil
	case f.passphraseFile != "":
		passphrase, err := a.readSecret(f.passphraseFile)
		if err != nil {
			err = fmt.Errorf("--passphrase-file: %w", err)
		}
		return passphrase, err
	case !isTerminal(a.env.Stdin):
		return "", failure.Usagef("a backup holds every secret: give --passphrase-file to encrypt it, or --plain to have it in the clear")
	}
	passphrase, err := a.askSecret(ctx, "Passphrase of the backup: ")
	if err != nil {
		return "", err
	}
	again, err := a.askSecret(ctx, "The same again: ")
	if err == nil && again != passphrase {
		err = errors.New("the two differ: nothing is saved")
	}
	return passphrase, err
}

// progressInterval is how often a long backup tells how far it is.
const progressInterval = time.Second

// backUp writes a backup to w, encrypted unless passphrase is empty.
func backUp(ctx context.Context, s *session, w io.Writer, passphrase string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // a failed write ends the stream
	stream, err := s.Store.Backup(ctx, &tandemv1.BackupRequest{})
	if err != nil {
		return err
	}
	sealed := io.WriteCloser(nopCloser{w})
	if passphrase != "" {
		recipient, err := age.NewScryptRecipient(passphrase)
		if err != nil {
			return err
		}
		if sealed, err = age.Encrypt(w, recipient); err != nil {
			return err
		}
	}
	size, told := 0, time.Now()
	for {
		piece, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if _, err := sealed.Write(piece.GetData()); err != nil {
			return err
		}
		if size += len(piece.GetData()); time.Since(told) >= progressInterval {
			told = time.Now()
			s.say("%s so far", inBytes(size))
		}
	}
	if err := sealed.Close(); err != nil {
		return err
	}
	how := "with every secret in the clear"
	if passphrase != "" {
		how = "encrypted"
	}
	s.say("backup of %s, %s", inBytes(size), how)
	return nil
}

func inBytes(n int) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// nopCloser is a writer whose end means nothing.
type nopCloser struct{ io.Writer }

// Close does nothing.
func (nopCloser) Close() error { return nil }

// writeFile makes a file of what fill writes, readable by its owner alone. It is
// there once it is whole and durable, and replaces another one only if force.
func writeFile(path string, force bool, fill func(io.Writer) error) error {
	if _, err := os.Lstat(path); !force && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, fmt.Errorf("%s exists: give another name, or --force to replace it", path))
	}
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("write %s: %w", path, failed.Err)
	}
	if err != nil {
		return err
	}
	err = fill(temp)
	if err == nil {
		err = temp.Sync()
	}
	err = errors.Join(err, temp.Close())
	if err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
