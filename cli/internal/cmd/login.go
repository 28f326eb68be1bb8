package cmd

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/cli/internal/client"
	"github.com/tandem-lb/tandem/cli/internal/failure"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// lbctl's own files in its configuration directory.
const (
	configFile = "config.yaml"
	tokenFile  = "token"
	caFile     = "ca.pem"
)

func (a *app) loginCommand() *cobra.Command {
	var fingerprint string
	cmd := &cobra.Command{
		Use:   "login [SERVER]",
		Short: "Remember a controller, its CA and your token",
		Long: `Remember where the controller is, whom to trust and who you are, in
~/.config/lbctl. The token is kept in a file that only you can read.

Without --ca the controller is asked for its CA: compare the fingerprint that is
shown with what this prints on the controller's machine, then answer yes, or
give it with --fingerprint.

  openssl x509 -in DATA-DIR/ca.pem -noout -fingerprint -sha256

Nothing is sent to the controller before its CA is accepted.`,
		Example: `  lbctl login lb.example.com --ca ca.pem --token-file admin.token
  lbctl login lb.example.com:9443 --fingerprint 5A:11:... --token-file -
  lbctl login lb.example.com`,
		Args:              arguments("[SERVER]"),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				a.flags.Server = args[0]
			}
			return a.login(cmd.Context(), fingerprint)
		},
	}
	cmd.Flags().StringVar(&fingerprint, "fingerprint", "", "SHA-256 fingerprint of the CA that is expected")
	return cmd
}

func (a *app) login(ctx context.Context, fingerprint string) error {
	dir, err := client.ConfigDir(a.env.LookupEnv)
	if err != nil {
		return err
	}
	known, err := a.settings()
	if err != nil {
		return err
	}
	server, err := client.Address(known.Server)
	if err != nil {
		return failure.Usage(err)
	}
	cas, err := a.chooseCA(ctx, server, fingerprint, dir)
	if err != nil {
		return err
	}
	token, err := a.chooseToken(ctx)
	if err != nil {
		return err
	}
	settings := client.Settings{
		Server: server, CA: filepath.Join(dir, caFile), TokenFile: filepath.Join(dir, tokenFile), Cluster: known.Cluster,
	}
	operator, err := a.tryLogin(ctx, settings, cas, token)
	if err != nil {
		return err
	}
	if err := save(dir, settings, cas, token); err != nil {
		return err
	}
	a.say("logged in to %s as %s; remembered in %s", server, operator, filepath.Join(dir, configFile))
	return nil
}

// chooseCA returns the CAs that a file, a fingerprint or a person vouches for.
func (a *app) chooseCA(ctx context.Context, server, fingerprint, dir string) ([]*x509.Certificate, error) {
	given := a.flags.Over(client.FromEnv(a.env.LookupEnv)).CA
	if given != "" && given != filepath.Join(dir, caFile) {
		return client.ReadCAs(given)
	}
	asking, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	ca, err := client.FetchCA(asking, server)
	if err != nil {
		return nil, err
	}
	got := client.Fingerprint(ca)
	if fingerprint != "" {
		if !client.SameFingerprint(fingerprint, got) {
			return nil, fmt.Errorf("the CA of %s has another fingerprint, %s: this is not the controller that --fingerprint is from", server, got)
		}
		return []*x509.Certificate{ca}, nil
	}
	a.say("The CA of %s has the SHA-256 fingerprint\n  %s", server, got)
	if changed(dir, ca) {
		a.say("WARNING: this is NOT the CA that was accepted before")
	}
	if !isTerminal(a.env.Stdin) {
		return nil, failure.Usagef("no terminal to ask on: give --fingerprint if the one above is right, or --ca")
	}
	yes, err := a.confirm(ctx, "Is it the controller's?")
	if err != nil {
		return nil, err
	}
	if !yes {
		return nil, errors.New("the CA was not accepted: nothing is remembered")
	}
	return []*x509.Certificate{ca}, nil
}

// changed tells whether another CA was accepted before.
func changed(dir string, ca *x509.Certificate) bool {
	before, err := client.ReadCAs(filepath.Join(dir, caFile))
	return err == nil && !slices.ContainsFunc(before, ca.Equal)
}

// chooseToken reads the token from where the command line or the environment
// says, or asks for it.
func (a *app) chooseToken(ctx context.Context) (string, error) {
	file := a.flags.Over(client.FromEnv(a.env.LookupEnv)).TokenFile
	switch file {
	case "":
		return a.askSecret(ctx, "Operator token: ")
	case "-":
		return client.ReadToken(a.env.Stdin)
	}
	opened, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("operator token: %w", err)
	}
	defer opened.Close()
	token, err := client.ReadToken(opened)
	if err != nil {
		return "", fmt.Errorf("operator token: %s %w", file, err)
	}
	return token, nil
}

// tryLogin asks the controller who the token belongs to.
func (a *app) tryLogin(ctx context.Context, settings client.Settings, cas []*x509.Certificate, token string) (string, error) {
	c, err := client.DialWith(settings.Server, cas, token)
	if err != nil {
		return "", err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	caller, err := c.Access.GetCaller(ctx, &tandemv1.GetCallerRequest{})
	return caller.GetOperator(), err
}

// save writes the configuration last: it refers to the other files.
func save(dir string, settings client.Settings, cas []*x509.Certificate, token string) error {
	config, err := yaml.Marshal(settings)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		data []byte
	}{{caFile, client.EncodeCAs(cas)}, {tokenFile, []byte(token + "\n")}, {configFile, config}} {
		if err := replaceFile(filepath.Join(dir, file.name), file.data); err != nil {
			return err
		}
	}
	return nil
}

// replaceFile writes a file that only its owner can read, whole or not at all.
func replaceFile(path string, data []byte) error {
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(file.Name()) // gone already when all went well
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
