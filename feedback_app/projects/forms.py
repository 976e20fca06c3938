"""What all forms of the pages share: a service's ValidationError is shown at the field it names."""

from django import forms
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError


def add_errors(form: forms.BaseForm, error: ValidationError) -> None:
    """Put a service's reasons at the form's fields; those of no field of it stand above the form, named."""
    if not hasattr(error, "error_dict"):
        form.add_error(None, error)
        return
    for name, reasons in error.message_dict.items():
        if name in form.fields:
            form.add_error(name, ValidationError(reasons))
        elif name == NON_FIELD_ERRORS:
            form.add_error(None, ValidationError(reasons))
        else:
            form.add_error(None, ValidationError([f"{name}: {reason}" for reason in reasons]))
