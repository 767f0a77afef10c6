package fulfillment

import "context"

func (s *Service) deliver(ctx context.Context) error {
	<-ctx.Done()
	return nil
}
