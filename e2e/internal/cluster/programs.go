package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Programs are the paths of what a cluster is made of.
type Programs struct {
	Controller, Agent, CLI string
	// HAProxy and Keepalived are the real daemons. Keepalived may be empty where
	// there is no VIP.
	HAProxy, Keepalived string
}

// Find returns the programs that "make build" has put into a directory and the
// daemons in PATH. The error says what to do about what is missing.
func Find(bin string) (Programs, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return Programs{}, err
	}
	p := Programs{
		Controller: filepath.Join(bin, "lb-controller"),
		Agent:      filepath.Join(bin, "lb-agent"),
		CLI:        filepath.Join(bin, "lbctl"),
	}
	var errs []error
	for _, built := range []string{p.Controller, p.Agent, p.CLI} {
		if _, err := os.Stat(built); err != nil {
			errs = append(errs, fmt.Errorf("%w: run make build", err))
		}
	}
	if p.HAProxy, err = exec.LookPath("haproxy"); err != nil {
		errs = append(errs, fmt.Errorf("%w: install the package haproxy", err))
	}
	if p.Keepalived, err = exec.LookPath("keepalived"); err != nil {
		p.Keepalived = ""
	}
	return p, errors.Join(errs...)
}
