package cmd

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"github.com/tandem-lb/tandem/cli/internal/failure"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// maxSecret bounds a password file, in bytes.
const maxSecret = 4 << 10

// secretFlags are the passwords of a cluster, which no argument may hold: any
// user of the machine can read arguments.
type secretFlags struct {
	statsUser         string
	statsPasswordFile string
	vrrpPasswordFile  string

	statsPassword, vrrpPassword string
}

// bind registers the flags. The passwords are read before the command runs, so
// that a person may take time to type.
func (f *secretFlags) bind(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.statsUser, "stats-user", "", "user of the statistics page to add or change")
	flags.StringVar(&f.statsPasswordFile, "stats-password-file", "", "file with that user's password, - for standard input (default: ask)")
	flags.StringVar(&f.vrrpPasswordFile, "vrrp-password-file", "", "file with the VRRPv2 password, - for standard input")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error { return f.read(a, cmd) }
}

func (f *secretFlags) read(a *app, cmd *cobra.Command) error {
	var err error
	if f.vrrpPasswordFile != "" {
		if f.vrrpPassword, err = a.readSecret(f.vrrpPasswordFile); err != nil {
			return fmt.Errorf("--vrrp-password-file: %w", err)
		}
	}
	switch {
	case f.statsUser == "" && f.statsPasswordFile != "":
		return failure.Usagef("--stats-user is missing: whose password is it?")
	case f.statsUser == "":
		return nil
	case f.statsPasswordFile == "":
		f.statsPassword, err = a.askSecret(cmd.Context(), "Password of "+f.statsUser+" for the statistics page: ")
		return err
	}
	if f.statsPassword, err = a.readSecret(f.statsPasswordFile); err != nil {
		return fmt.Errorf("--stats-password-file: %w", err)
	}
	return nil
}

// apply puts the passwords into cluster and returns their paths for an update
// mask. current, if not nil, returns the cluster as it is: the other users of
// the statistics page are kept, and the etag makes sure that they are still
// those.
func (f *secretFlags) apply(cluster *tandemv1.Cluster, current func() (*tandemv1.Cluster, error)) ([]string, error) {
	var paths []string
	if f.vrrpPassword != "" {
		if cluster.Vrrp == nil {
			cluster.Vrrp = &tandemv1.Vrrp{}
		}
		cluster.Vrrp.AuthPassword = f.vrrpPassword
		paths = append(paths, "vrrp.auth_password")
	}
	if f.statsUser == "" {
		return paths, nil
	}
	if cluster.StatsPage == nil {
		cluster.StatsPage = &tandemv1.StatsPage{}
	}
	if current != nil {
		was, err := current()
		if err != nil {
			return nil, err
		}
		cluster.StatsPage.Users = was.GetStatsPage().GetUsers()
		if cluster.GetEtag() == "" {
			cluster.Etag = was.GetEtag()
		}
	}
	cluster.StatsPage.Users = withUser(cluster.GetStatsPage().GetUsers(), f.statsUser, f.statsPassword)
	return append(paths, "stats_page.users"), nil
}

// withUser adds a user or gives a present one the password. The others are
// named without a password, which keeps theirs.
func withUser(present []*tandemv1.StatsUser, user, password string) []*tandemv1.StatsUser {
	var users []*tandemv1.StatsUser
	for _, other := range present {
		if other.GetName() != user {
			users = append(users, &tandemv1.StatsUser{Name: other.GetName()})
		}
	}
	return append(users, &tandemv1.StatsUser{Name: user, Password: password})
}

// readSecret reads a file, or standard input for "-", up to its one line break
// at the end.
func (a *app) readSecret(file string) (string, error) {
	from := a.env.Stdin
	if file != "-" {
		opened, err := os.Open(file)
		if err != nil {
			return "", err
		}
		defer opened.Close()
		from = opened
	}
	data, err := io.ReadAll(io.LimitReader(from, maxSecret+1))
	if err != nil {
		return "", err
	}
	data = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(data) == 0 || len(data) > maxSecret {
		return "", errors.New("must hold the password alone, on one line")
	}
	return string(data), nil
}
