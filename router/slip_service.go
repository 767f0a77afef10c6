package router

import (
	"cmp"
	"context"

	"google.golang.org/grpc"

	routerv1 "github.com/rimlight/rimlight/gen/go/rimlight/router/v1"
)

const defaultSlips = 100

// ListSlips implements rimlight.router.v1.RouterAdminService. The slips are the fleet's: every router judges its peers'
// counts, too.
func (r *Router) ListSlips(_ context.Context, q *routerv1.ListSlipsRequest) (*routerv1.ListSlipsResponse, error) {
	var list []*routerv1.Slip
	for _, s := range r.slips.list() {
		if !q.GetActiveOnly() || s.GetEndTime() == nil {
			list = append(list, s)
		}
	}
	page, next, err := paginate(list, cmp.Or(q.GetPageSize(), defaultSlips), q.GetPageToken())
	if err != nil {
		return nil, toStatus(err)
	}
	fleet, silent := r.slips.now()
	return &routerv1.ListSlipsResponse{Slips: page, NextPageToken: next, Windows: r.windowsProto(fleet), SilentRouters: silent}, nil
}

// WatchSlips implements rimlight.router.v1.RouterAdminService.
func (r *Router) WatchSlips(q *routerv1.WatchSlipsRequest, stream grpc.ServerStreamingServer[routerv1.WatchSlipsResponse]) error {
	revision, err := r.slips.resume(q.GetResumeToken())
	if err != nil { // a first watch, or one whose past is gone
		var all []*routerv1.Slip
		all, revision = r.slips.snapshot()
		if err := stream.Send(&routerv1.WatchSlipsResponse{
			Update: &routerv1.WatchSlipsResponse_Snapshot{Snapshot: &routerv1.SlipSnapshot{Slips: all}}, ResumeToken: r.slips.token(revision),
		}); err != nil {
			return err
		}
	}
	for {
		changed, reached, next := r.slips.since(revision)
		for i, s := range changed {
			token := r.slips.token(revision) // an interrupted batch is told again
			if i == len(changed)-1 {
				token = r.slips.token(reached)
			}
			if err := stream.Send(&routerv1.WatchSlipsResponse{
				Update: &routerv1.WatchSlipsResponse_Changed{Changed: s}, ResumeToken: token,
			}); err != nil {
				return err
			}
		}
		revision = reached
		select {
		case <-stream.Context().Done():
			return toStatus(stream.Context().Err())
		case <-r.stopping.Done():
			return toStatus(errStopping)
		case <-next:
		}
	}
}

// GetWindows implements rimlight.router.v1.RouterAdminService.
func (r *Router) GetWindows(context.Context, *routerv1.GetWindowsRequest) (*routerv1.GetWindowsResponse, error) {
	return &routerv1.GetWindowsResponse{Router: r.config.Name, Windows: countsProto(r.counts())}, nil
}
