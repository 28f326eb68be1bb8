package api

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tandem-lb/tandem/controlplane/internal/auth"
	"github.com/tandem-lb/tandem/controlplane/internal/fleet"
	"github.com/tandem-lb/tandem/controlplane/internal/pki"
	"github.com/tandem-lb/tandem/controlplane/internal/state"
	tandemv1 "github.com/tandem-lb/tandem/gen/tandem/v1"
)

// accessService holds who may call the API.
type accessService struct {
	tandemv1.UnimplementedAccessServiceServer
	operators   *auth.Operators
	ready       func() error // refuses changes while a restored store waits
	version     string
	logger      hclog.Logger
	authority   *pki.Authority
	certificate *pki.Server
	fleet       *fleet.Fleet
}

func (a *accessService) GetCaller(ctx context.Context, _ *tandemv1.GetCallerRequest) (*tandemv1.Caller, error) {
	return &tandemv1.Caller{Operator: callerOf(ctx).operator, ControllerVersion: a.version}, nil
}

func (a *accessService) CreateToken(ctx context.Context, r *tandemv1.CreateTokenRequest) (*tandemv1.Token, error) {
	if err := a.ready(); err != nil {
		return nil, err
	}
	wanted := r.GetToken()
	if wanted == nil {
		wanted = &tandemv1.Token{}
	}
	if err := state.Validate(wanted, "token"); err != nil {
		return nil, err
	}
	var expire time.Time
	if wanted.GetExpireTime() != nil {
		expire = wanted.GetExpireTime().AsTime()
		if !expire.After(time.Now()) {
			return nil, refuse("token.expire_time", state.ReasonFieldInvalid, "must be in the future")
		}
	}
	token, err := a.operators.Create(ctx, wanted.GetOperator(), expire)
	if err != nil {
		return nil, err
	}
	a.logger.Info("made an operator token", "token", token.GetName(), "operator", token.GetOperator(), "author", callerOf(ctx).operator)
	return token, nil
}

func (a *accessService) ListTokens(ctx context.Context, _ *tandemv1.ListTokensRequest) (*tandemv1.ListTokensResponse, error) {
	tokens, err := a.operators.List(ctx)
	if err != nil {
		return nil, err
	}
	return &tandemv1.ListTokensResponse{Tokens: tokens}, nil
}

func (a *accessService) DeleteToken(ctx context.Context, r *tandemv1.DeleteTokenRequest) (*emptypb.Empty, error) {
	if err := a.ready(); err != nil {
		return nil, err
	}
	id, ok := strings.CutPrefix(r.GetName(), "tokens/")
	if !ok || id == "" {
		return nil, refuse("name", state.ReasonNameInvalid, fmt.Sprintf("%q must be the full name of a token, such as tokens/abc", r.GetName()))
	}
	if err := a.operators.Delete(ctx, id); err != nil {
		return nil, err
	}
	a.logger.Info("ended an operator token", "token", r.GetName(), "author", callerOf(ctx).operator)
	return &emptypb.Empty{}, nil
}
