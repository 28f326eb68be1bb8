// Package client reaches the controller: where it is, how it is trusted, who
// calls, and how its errors come back.
package client

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"sigs.k8s.io/yaml"
)

// DefaultPort is the controller's gRPC port where an address names none.
const DefaultPort = "9443"

// Environment variables that override the configuration file.
const (
	EnvServer    = "LBCTL_SERVER"
	EnvTokenFile = "LBCTL_TOKEN_FILE"
	EnvCA        = "LBCTL_CA"
	EnvCluster   = "LBCTL_CLUSTER"
)

// Settings say which controller to call and how. The zero value says nothing.
type Settings struct {
	// Server is host or host:port of the controller's gRPC port.
	Server string `json:"server,omitempty"`
	// TokenFile holds the operator's token.
	TokenFile string `json:"token_file,omitempty"`
	// CA is a file with the controller's CA certificate in PEM.
	CA string `json:"ca,omitempty"`
	// Cluster is the id of the cluster to work on.
	Cluster string `json:"cluster,omitempty"`
}

// ConfigDir returns the directory of lbctl's own files, from XDG_CONFIG_HOME
// or HOME.
func ConfigDir(lookupEnv func(string) (string, bool)) (string, error) {
	if dir, ok := lookupEnv("XDG_CONFIG_HOME"); ok && filepath.IsAbs(dir) {
		return filepath.Join(dir, "lbctl"), nil
	}
	home, ok := lookupEnv("HOME")
	if !ok || home == "" {
		return "", errors.New("no HOME in the environment: set it, or XDG_CONFIG_HOME, to have a place for lbctl's configuration")
	}
	return filepath.Join(home, ".config", "lbctl"), nil
}

// FromEnv returns what the environment says.
func FromEnv(lookupEnv func(string) (string, bool)) Settings {
	get := func(name string) string {
		value, _ := lookupEnv(name)
		return value
	}
	return Settings{Server: get(EnvServer), TokenFile: get(EnvTokenFile), CA: get(EnvCA), Cluster: get(EnvCluster)}
}

// FromFile returns what a configuration file says; nothing if there is none.
func FromFile(path string) (Settings, error) {
	var s Settings
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("configuration file: %w", err)
	}
	if err := yaml.UnmarshalStrict(data, &s); err != nil {
		return s, fmt.Errorf("%s must hold server, token_file, ca and cluster, each a text: %w", path, err)
	}
	return s, nil
}

// Over fills what s leaves open with what base says.
func (s Settings) Over(base Settings) Settings {
	fill := func(field *string, value string) {
		if *field == "" {
			*field = value
		}
	}
	fill(&s.Server, base.Server)
	fill(&s.TokenFile, base.TokenFile)
	fill(&s.CA, base.CA)
	fill(&s.Cluster, base.Cluster)
	return s
}

// Address returns host:port for a server as a person writes it.
func Address(server string) (string, error) {
	if server == "" || strings.ContainsAny(server, "/ \t\r\n") {
		return "", fmt.Errorf("server must be HOST or HOST:PORT, such as lb-controller.example.com:%s (got %q)", DefaultPort, server)
	}
	if _, _, err := net.SplitHostPort(server); err == nil {
		return server, nil
	}
	return net.JoinHostPort(strings.Trim(server, "[]"), DefaultPort), nil
}
