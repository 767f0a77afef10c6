package verifier

// SetFault makes the store ask before and after every commit; an error is a crash at that point.
func (s *Service) SetFault(fault func(committed bool) error) { s.store.Fault = fault }

// OpenReceipt is what every receipt goes through first.
func (s *Service) OpenReceipt(text string) error {
	_, err := s.openReceipt(text)
	return err
}
