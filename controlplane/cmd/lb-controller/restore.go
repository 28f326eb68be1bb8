package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/backup"
	"github.com/tandem-lb/tandem/controlplane/internal/store"
	"github.com/tandem-lb/tandem/controlplane/internal/store/bolt"
)

func restoreCommand() *cobra.Command {
	var dataDir, passphraseFile string
	var asIs bool
	cmd := &cobra.Command{
		Use:   "restore (FILE | --as-is)",
		Short: "Make a data directory of a backup",
		Long: `Make a data directory of a backup by "lbctl backup"; - reads standard input. The
directory must be empty. Run it as root or as the controller's user;
lb-controller.service gives what root put there to that user.

A restored controller waits: it can be asked, but accepts no change and sends no
node a configuration, so that the nodes keep serving what they have, until an
operator says "lbctl restore confirm". "lbctl status" shows by how much each node
is ahead of the backup. Its operator tokens are those of the backup, also ones that
were removed since, and a new one of operator admin is in admin.token; join tokens
of before are no longer good. Never start the old controller again.

With --as-is the store in the directory is taken as one that was restored: after
a copy of the directory, or of the whole machine, was put back.`,
		Example: `  lb-controller restore --data-dir /var/lib/tandem/controller --passphrase-file backup.pass tandem.backup
  lb-controller restore --data-dir /var/lib/tandem/controller --as-is`,
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case asIs && len(args) > 0:
				return errors.New("give a backup or --as-is, not both")
			case !asIs && len(args) != 1:
				return errors.New("give one backup, a file or - for standard input")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var restored *store.Restored
			var err error
			if asIs {
				restored, err = bolt.Renew(cmd.Context(), filepath.Join(dataDir, stateFile), time.Time{})
			} else {
				restored, err = restore(cmd.Context(), dataDir, args[0], passphraseFile, cmd.InOrStdin())
			}
			if err != nil {
				return err
			}
			return told(cmd.OutOrStdout(), dataDir, restored)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&dataDir, "data-dir", "/var/lib/tandem/controller", "directory of everything that must survive")
	flags.StringVar(&passphraseFile, "passphrase-file", "", "file with the passphrase of an encrypted backup")
	flags.BoolVar(&asIs, "as-is", false, "take the store that is in the directory")
	return cmd
}

// restore fills dataDir from a backup and adds a token, since the operators of
// the backup may have lost theirs with the machine.
func restore(ctx context.Context, dataDir, file, passphraseFile string, stdin io.Reader) (*store.Restored, error) {
	passphrase := ""
	if passphraseFile != "" {
		text, err := os.ReadFile(passphraseFile)
		if err != nil {
			return nil, fmt.Errorf("--passphrase-file: %w", err)
		}
		passphrase = string(bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("\n")), []byte("\r")))
	}
	in := stdin
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer opened.Close()
		in = opened
	}
	return backup.Restore(ctx, dataDir, in, passphrase, func(ctx context.Context, path string) error {
		restored, err := bolt.Open(path, bolt.Options{})
		if err != nil {
			return err
		}
		err = auth.NewOperators(restored).CreateIn(ctx, filepath.Join(dataDir, tokenFile))
		return errors.Join(err, restored.Close())
	})
}

// told says what was restored and what comes next.
func told(out io.Writer, dataDir string, restored *store.Restored) error {
	of := ""
	if !restored.Backup.IsZero() {
		of = fmt.Sprintf(", a backup of %s", restored.Backup.Local().Format(time.RFC3339))
	}
	_, err := fmt.Fprintf(out, `Restored %s from epoch %s%s.
Start the controller. It waits for an operator: see "lbctl status", then run
"lbctl restore confirm". Until then the nodes keep serving what they have.
`, dataDir, restored.Epoch, of)
	return err
}
