package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/tandem-lb/tandem/cli/internal/output"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// versionTime bounds the question to the controller, which may be off.
const versionTime = 2 * time.Second

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the versions of lbctl and of the controller",
		Long:              `Print lbctl's own version, and the controller's if it can be reached.`,
		Example:           "  lbctl version\n  lbctl version -o json",
		Args:              arguments(""),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			versions := struct {
				Lbctl      string `json:"lbctl"`
				Controller string `json:"controller,omitempty"`
			}{Lbctl: a.env.Version}
			var err error
			if versions.Controller, err = a.controllerVersion(cmd.Context()); err != nil {
				a.say("controller: %v", err)
			}
			if a.format == output.FormatJSON {
				encoder := json.NewEncoder(a.env.Stdout)
				encoder.SetIndent("", "  ")
				return encoder.Encode(versions)
			}
			fmt.Fprintf(a.env.Stdout, "lbctl %s\n", versions.Lbctl)
			if versions.Controller != "" {
				fmt.Fprintf(a.env.Stdout, "lb-controller %s\n", output.Clean(versions.Controller))
			}
			return nil
		},
	}
}

func (a *app) controllerVersion(ctx context.Context) (string, error) {
	s, err := a.open()
	if err != nil {
		return "", err
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(ctx, versionTime)
	defer cancel()
	caller, err := s.Access.GetCaller(ctx, &tandemv1.GetCallerRequest{})
	return caller.GetControllerVersion(), err
}
